from fedimg.aws.instance import key_pairs
from fedimg.ssh import client

KEY = client.new_identity("test")


def test_a_repeated_import_is_one_tagged_pair(origin, waiter, labels, account):
    name = key_pairs.imported(origin, waiter, labels, "test", KEY)
    assert key_pairs.imported(origin, waiter, labels, "test", KEY) == name
    (row,) = account.live(labels.site)
    assert (row["kind"], row["tags"]["fedimg:role"]) == ("key-pair", "test")
    shown = origin.describe_key_pairs(KeyNames=[name], IncludePublicKey=True)["KeyPairs"][0]
    assert shown["PublicKey"].split()[:2] == KEY.public.split()[:2]


def test_each_role_removes_its_own_pairs(origin, waiter, labels, account):
    mine = key_pairs.imported(origin, waiter, labels, "test-hvm", KEY)
    other = key_pairs.imported(origin, waiter, labels, "test-paravirtual", KEY)
    assert mine != other
    key_pairs.remove(origin, labels, "test-hvm")
    key_pairs.remove(origin, labels, "test-hvm")
    assert [row["tags"]["fedimg:role"] for row in account.live(labels.site)] == ["test-paravirtual"]
    key_pairs.remove(origin, labels, "test-paravirtual")
    assert account.live(labels.site) == []

"""The tasks of each image method: requests, children, results, and the files that they leave.

Taken from Koji's and koji-osbuild's builder plugins; `contents` says where records and bytes go.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lab.koji.records import Value


@dataclass(frozen=True)
class Method:
    """A parent task's method and its children's; osbuildImage works without children."""

    parent: str
    child: str | None


METHODS = {
    method.parent: method
    for method in (
        Method("image", "createImage"),
        Method("kiwiBuild", "createKiwiImage"),
        Method("imageBuilderBuild", "imageBuilderBuildArch"),
        Method("osbuildImage", None),
        Method("livemedia", "createLiveMedia"),
        Method("appliance", "createAppliance"),
    )
}


@dataclass(frozen=True)
class Image:
    """An image to build: Koji's name, version and release, and the target it is built from."""

    name: str
    version: str
    release: str

    @property
    def target(self) -> str:
        return f"f{self.version}-candidate"

    @property
    def stem(self) -> str:
        return f"{self.name}-{self.version}-{self.release}"


def request(method: str, image: Image, arches: Sequence[str], scratch: bool) -> list[Value]:
    """Return the parent task's request, in the order of that method's handler."""
    options: dict[str, Value] = {"release": image.release, "repo": []}
    if scratch:
        options["scratch"] = True
    tree = f"https://kojipkgs.fedoraproject.org/compose/{image.version}/$arch/os/"
    kickstart = f"work/cli-image/1436100000.123456.AbCdEfGh/{image.name.lower()}.ks"
    wanted = list(arches)
    match method:
        case "image":
            options |= {"format": ["qcow2", "raw-xz"], "kickstart": kickstart, "disk_size": "3"}
            return [image.name, image.version, wanted, image.target, tree, options]
        case "kiwiBuild":
            url = "git+https://pagure.io/fedora-kiwi-descriptions.git#f" + image.version
            options |= {"profile": "Cloud-Base-AmazonEC2", "type": "oem"}
            return [image.target, wanted, url, "Fedora.kiwi", options]
        case "imageBuilderBuild":
            types = ["server-ami"]
            return [image.target, wanted, types, image.name, image.version, options]
        case "osbuildImage":
            distribution = f"fedora-{image.version}"
            types = ["ami"]
            return [image.name, image.version, distribution, types, image.target, wanted, options]
        case "livemedia":
            return [image.name, image.version, wanted, image.target, kickstart, options]
        case "appliance":
            options |= {"format": "raw"}
            return [image.name, image.version, wanted[0], image.target, kickstart, options]
    raise ValueError(f"{method!r} is no image method of Koji's; there are {', '.join(METHODS)}")


def child_request(method: str, image: Image, arch: str, parent: list[Value]) -> list[Value]:
    """Return the request of the child that builds for one architecture.

    The parents' handlers add what they were not told: their options say whether it is scratch.
    """
    target = {"name": image.target, "build_tag_name": f"f{image.version}-build", "build_tag": 1}
    repository = {"id": 1234, "state": 1}
    options = {"scratch": False, **parent[-1]}
    start = [image.name, image.version, image.release, arch]
    match method:
        case "kiwiBuild":
            return [*start, target, 1, repository, *parent[2:4], {"optional_arches": [], **options}]
        case "imageBuilderBuild":
            config = {"id": 1, "name": target["build_tag_name"], "arches": arch, "extra": {}}
            return [*start, parent[2], target, config, repository, options]
    # The tree to install from or, for livemedia and appliance, the kickstart file.
    return [*start, target, 1, repository, parent[4], options]


def child_result(
    task: int,
    image: Image,
    arch: str,
    files: Sequence[str],
    logs: Sequence[str],
    request: list[Value],
    method: str,
) -> dict[str, Value]:
    """Return getTaskResult's answer for a child that has built.

    koji-image-builder's says for its release which distribution was asked for: mostly none.
    """
    release = request[-1].get("distro") if method == "imageBuilderBuildArch" else image.release
    return {
        "arch": arch,
        "task_id": task,
        "name": image.name,
        "version": image.version,
        "release": release,
        "files": list(files),
        "logs": list(logs),
        "rpmlist": [],
    }


def sentence(folders: Sequence[str], scratch: bool) -> str:
    """Return the parent's result: prose, from which nothing can be read."""
    where = ", ".join(f"/mnt/koji/{folder}" for folder in folders)
    return f"{'Scratch ' if scratch else ''}image build results in: {where}"


def by_products(image: Image, arch: str, task: int) -> dict[str, str]:
    """Small text files that lie beside an image, by name; no reader should take them for one."""
    return {
        f"koji-{image.target}-build-{task}-base.ks": f"# {image.stem} {arch}\n",
        f"libvirt-raw-xz-{arch}.xml" if task % 2 else f"tdl-{arch}.xml": "<domain/>\n",
    }


def archive_type(filename: str) -> str:
    """Koji's archive type of a file name, by its extension."""
    for ending, name in (
        (".raw.xz", "raw-xz"),
        (".raw.gz", "raw-gz"),
        (".raw.zst", "raw-zst"),
        (".qcow2", "qcow2"),
        (".raw", "raw"),
    ):
        if filename.endswith(ending):
            return name
    return {"ks": "ks", "xml": "xml", "iso": "iso"}.get(filename.rsplit(".", 1)[-1], "json")

"""IAM policies, evaluated for every call with its resources and conditions.

IAM itself, its users, roles and policies, is moto's; that nobody does more than a policy allows is
decided here. The account's own keys, which belong to no user, may do everything.
"""

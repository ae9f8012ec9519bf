"""The catalogue: files for any web server that tell which AMIs are public, and what became of them.

It is made from the database alone, and asks neither EC2 nor Koji.
"""

"""Make untrusted text and data safe to quote, match, parse and print.

The package holds the quoting of foreign text, the redaction of secrets, regular expressions in
bounded time, and the bounds of JSON documents. It does not know where a text comes from. Every
package may import it; it imports no other package of fedimg.
"""

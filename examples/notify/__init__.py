"""A fourth service: each order that is confirmed, rejected or cancelled becomes a mail to send.

It reads the topic `outcomes` and decides nothing about an order. See docs/ADD_A_SERVICE.md.
"""

"""How fast the proxy is, beside the best rival and the physical limit, measured in one run on one machine.

Absolute figures drift by a factor of two on a shared machine; ratios from one run say something. So each piece of work
is done in turns by this project, by the rival (Dovecot over `imapc`; Postfix as a smarthost relay) and by the limit
(the same octets as raw IMAP over TLS; through a TLS splice), with the same client. The medians are compared, and behind
each ratio stands its spread over the rounds. What the table calls *client busy* is the share of the time in which the
client itself computed: near 100 % it measured itself.

One command for each leg, `python tests/bench/pop3.py` and `python tests/bench/smtp.py`. pytest collects nothing here.
"""

"""A client of maintd's API: everything that a person can do with commands, for programs.

    from maintd.client import Client

    client = Client("https://maintd.example:8420", token=token, ca_file="/etc/ssl/own-ca.pem")
    run = client.trigger("vacuum", {"max_tables": 5}, why="disk is full", idempotency_key="vacuum-2026-03-01")
    for line in client.follow(run.id):
        print(line.text)
    print(client.run(run.id).state)

A path in place of the URL is the control socket, which needs no token. Errors are those of `maintd.errors`.
"""

from maintd.client.client import Client
from maintd.client.errors import api_error, coded_error
from maintd.client.tokens import read_token_file

__all__ = ["Client", "api_error", "coded_error", "read_token_file"]

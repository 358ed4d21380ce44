#!/bin/sh
# Makes the keys that are missing, and gives the server, each service and the operator what is theirs alone.
#
# Runs at every start: the allow-lists in nats-auth.conf become those of this version of worldloop.
set -eu
umask 077
cd /keys

worldloop keys init --dir all --host nats
for name in gatekeeper trainer monitor inference reporter operator; do
    cp "all/$name.nk" all/ca.pem "$name/"
done
cp all/nats-auth.conf all/server.pem all/server-key.pem nats/
[ -s reporter/page-token ] || python3 -c 'import secrets; print(secrets.token_urlsafe(24))' >reporter/page-token
cp reporter/page-token operator/

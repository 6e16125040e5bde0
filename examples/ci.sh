#!/bin/sh
# CI without containers: start the service, wait until it is ready, run the tests, and stop it.
set -eu
here=$(dirname "$0")

fense-admin --port 8643 --database :memory: --seed "$here/seed.json" &
trap 'kill $!' EXIT
fense-admin health --wait 30 http://127.0.0.1:8643

# ... run the tests here, in any language:
curl --fail --silent --show-error http://127.0.0.1:8643/accounts/1 -H 'x-api-key: local-dev-key'

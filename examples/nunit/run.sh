#!/bin/sh
# Compile the tests and run their classes in parallel, with Debian's mono-mcs, nunit-console,
# libmono-system-net-http4.0-cil and libnewtonsoft-json5.0-cil. In a project, `dotnet test` does this.
set -eu
cd "$(dirname "$0")"
libraries=/usr/lib/cli
json=$libraries/Newtonsoft.Json-5.0/Newtonsoft.Json.dll
nunit=$libraries/nunit.framework-2.6.3/nunit.framework.dll
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

mcs -target:library -out:"$folder/tests.dll" -r:System.Net.Http -r:$json -r:$nunit ./*.cs
printf '%s\n' BillingTest UsageTest |
  xargs -I {} -P 2 nunit-console -nologo -noxml -run:{} "$folder/tests.dll"

<?php
// The control plane, called by a client that openapi-generator makes of standin/openapi.json.
require "autoload.php";

use OpenAPI\Client\Api\ClockApi;
use OpenAPI\Client\Api\FaultsApi;
use OpenAPI\Client\Api\InstancesApi;
use OpenAPI\Client\Api\JournalApi;
use OpenAPI\Client\Api\ServiceApi;
use OpenAPI\Client\Api\StateApi;
use OpenAPI\Client\ApiException;
use OpenAPI\Client\Configuration;
use OpenAPI\Client\Model\ClockSent;
use OpenAPI\Client\Model\FaultSent;
use OpenAPI\Client\Model\InstanceSent;
use OpenAPI\Client\Model\LookupsSent;
use OpenAPI\Client\Model\StateAccountSent;
use OpenAPI\Client\Model\StateSent;

function text($value)
{
    return is_bool($value) ? var_export($value, true) : $value ?? "null";
}

function show_state($state)
{
    foreach ($state->getAccounts() as $account) {
        echo $account->getFenseAccountId(), " ", $account->getName(), " ", text($account->getApiKeyLast4()),
            " ", text($account->getDisputeAccountId()), " ", $account->getCreatedAt()->format("Y-m-d\TH:i:sp");
        foreach ($account->getUsage() as $day => $lookups) {
            echo " $day=$lookups";
        }
        echo "\n";
    }
}

function show_error($call)
{
    try {
        $call();
    } catch (ApiException $error) {
        $told = $error->getResponseObject()->getError();
        echo $error->getCode(), " ", $told->getCode();
        foreach ($told->getDetails() as $detail) {
            echo " ", $detail->getField(), ": ", $detail->getMessage();
        }
        echo "\n";
    }
}

$key = getenv("FENSE_API_KEY");
$without_key = (new Configuration())->setHost(getenv("FENSE_STANDIN_URL"));
$config = (clone $without_key)->setApiKey("x-api-key", $key);
$clock = new ClockApi(null, $config);
$state = new StateApi(null, $config);
$faults = new FaultsApi(null, $config);
$journal = new JournalApi(null, $config);
$instances = new InstancesApi(null, $config);

$clock->setClock(new ClockSent(["now" => "2026-11-30T23:59:58Z"]));
$clock->setClock(new ClockSent(["advance_seconds" => 1]));
$now = $clock->getClock();
echo $now->getNow()->format("Y-m-d\TH:i:sp"), " ", text($now->getStopped()), "\n";

$sent = new StateSent(["accounts" => [
    new StateAccountSent([
        "name" => "Žluťoučký", "email" => "owner@beta.example", "api_key" => "sk_test_client_0002",
        "fense_account_id" => 4294967296, "usage" => ["-1" => 2147483648],
    ]),
    new StateAccountSent([
        "name" => "Gamma", "email" => "owner@gamma.example", "api_key" => "short",
        "dispute_account_id" => "6f1c2a6e-0c1d-4a55-9a3e-0d6f6f0f7d11",
    ]),
]]);
$state->putState($sent);
echo $state->recordUsage([
    new LookupsSent(["fense_account_id" => 4294967296, "date" => "2026-11-01", "lookups" => 1000000000000]),
    new LookupsSent(["fense_account_id" => 4294967296, "date" => -1, "lookups" => 1]),
])->getRecorded(), "\n";
show_state($state->getState());

$faults->armFault(new FaultSent([
    "status" => 503, "path" => "/accounts/*", "headers" => ["Retry-After" => "7"], "message" => "zu spät",
]));
$faults->armFault(new FaultSent(["drop" => "reset", "delay_ms" => 1, "times" => 1000000000000]));
foreach (["/accounts/1", "/accounts/1?x", "/nowhere"] as $path) {
    $request = curl_init(getenv("FENSE_BASE_URL") . $path);
    curl_setopt_array($request, [
        CURLOPT_HTTPHEADER => ["x-api-key: $key"], CURLOPT_POSTFIELDS => "{}", CURLOPT_RETURNTRANSFER => true,
    ]);
    curl_exec($request);
}
foreach ($faults->getFaults()->getFaults() as $fault) {
    echo $fault->getId(), " ", text($fault->getStatus()), " ", text($fault->getDrop()), " ",
        text($fault->getTimes() > 999999000000), " ", text($fault->getUsed() > 0), "\n";
}
foreach ($journal->getRequests()->getRequests() as $entry) {
    echo implode(" ", [
        $entry->getMethod(), $entry->getPath(), $entry->getQuery(), text($entry->getStatus()),
        text($entry->getBody()), text(strlen(text($entry->getResponse())) > 4),
        text($entry->getDurationMs() !== null), text($entry->getFault()),
        text(time() - $entry->getAt()->getTimestamp() < 60), text(count($entry->getHeaders()) > 0),
    ]), "\n";
}

$made = $instances->createInstance(new InstanceSent(["seed" => "demo"]));
$instances->createInstance(new InstanceSent(["seed" => $sent]));
$instances->endInstance($made->getId());
echo strlen($made->getId()), " ", text($made->getApiKey() !== ""), " ",
    count($instances->getInstances()->getInstances()), "\n";

show_error(fn() => $faults->armFault(new FaultSent()));
show_error(fn() => $state->recordUsage([new LookupsSent(["fense_account_id" => 9, "lookups" => 1])]));
show_error(fn() => (new StateApi(null, $without_key))->getState());
echo (new ServiceApi(null, $config))->getControlOpenapi()->getOpenapi(), "\n";
$faults->disarmFaults();
$journal->forgetRequests();
$clock->releaseClock();
$state->reset();
echo count($state->getState()->getAccounts()), "\n";

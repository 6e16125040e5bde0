<?php
// The contract, called by a client that openapi-generator makes of openapi.json.
require "autoload.php";

use OpenAPI\Client\Api\AccountsApi;
use OpenAPI\Client\Api\ServiceApi;
use OpenAPI\Client\Api\UsageApi;
use OpenAPI\Client\ApiException;
use OpenAPI\Client\Configuration;
use OpenAPI\Client\Model\AccountCreate;
use OpenAPI\Client\Model\AccountUpdate;

function with_key($key)
{
    return (new Configuration())->setHost(getenv("FENSE_BASE_URL"))->setApiKey("x-api-key", $key);
}

function text($value)
{
    if ($value instanceof DateTime) {
        return $value->format("Y-m-d");
    }
    return is_bool($value) ? var_export($value, true) : $value ?? "null";
}

function show($account)
{
    echo implode(" ", [
        $account->getFenseAccountId(), $account->getName(), $account->getEmail(),
        text($account->getSuppressNotifications()), text($account->getSuppressBilling()),
        text($account->getIsActive()), text($account->getApiKeyLast4()),
        text($account->getDisputeAccountId()), $account->getCreatedAt()->format("Y-m-d\TH:i:sp"),
        $account->getUpdatedAt()->format("Y-m-d\TH:i:sp"),
    ]), "\n";
}

function show_usage($usage)
{
    echo $usage->getFenseAccountId(), " ", text($usage->getStartDate()), " ", text($usage->getEndDate()),
        " ", text($usage->getDisputeAccountId()), " ", $usage->getTotalLookups();
    foreach ($usage->getDaily() as $day) {
        echo " ", text($day->getDate()), "=", $day->getLookups();
    }
    echo "\n";
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

$config = with_key(getenv("FENSE_API_KEY"));
$accounts = new AccountsApi(null, $config);
$usage = new UsageApi(null, $config);
$service = new ServiceApi(null, $config);

show($accounts->getAccount(1));
show($accounts->getAccount(4294967296));

$body = new AccountCreate([
    "api_key" => "sk_test_client_0001", "name" => "Gamma", "email" => "owner@gamma.example",
    "dispute_account_id" => "6F1C2A6E-0C1D-4A55-9A3E-0D6F6F0F7D12",
]);
$created = $accounts->createAccount($body);
$id = $created->getFenseAccountId();
echo $id, " ", $created->getName(), " ", text($created->getDisputeAccountId()), "\n";
$changes = [["name" => "Gamma Zürich", "is_active" => false], ["dispute_account_id" => null]];
foreach ($changes as $change) {
    $updated = $accounts->updateAccount($id, new AccountUpdate($change));
    echo $updated->getName(), " ", text($updated->getIsActive()), " ", text($updated->getDisputeAccountId()), "\n";
}

show_usage($usage->getAccountUsage(1));
show_usage($usage->getAccountUsage(1, "2026-11-01", "2026-11-01"));
show_usage($usage->getUsage(null, "2026-11-30", 4294967296));
$all = $usage->getUsage();
echo text($all->getStartDate()), " ", text($all->getEndDate()), " ", $all->getTotalLookups();
foreach ($all->getAccounts() as $account) {
    echo " ", $account->getFenseAccountId(), "=", $account->getTotalLookups(), "/",
        text($account->getDisputeAccountId());
}
echo "\n";

show_error(fn() => $accounts->createAccount($body));
show_error(fn() => $usage->getUsage("2026-11-01"));
show_error(fn() => (new AccountsApi(null, with_key("nobody's")))->getAccount(1));
show_error(fn() => (new AccountsApi(null, with_key("short-key")))->getAccount(1));
show_error(fn() => $accounts->getAccount(9007199254740991));
$document = $service->getOpenapi();
echo $service->getHealth()->getStatus(), " ", $document->getOpenapi(), " ", $document->getInfo()["title"], "\n";

<?php
// A job of the code under test, as a queue or cron runs it: worker.php URL KEY ACCOUNT

require_once __DIR__ . '/Billing.php';

[, $url, $key, $id] = $argv;
(new Billing($url, $key))->stop((int) $id);

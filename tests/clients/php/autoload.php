<?php
// What Composer would do, with the libraries of Debian.
require "GuzzleHttp/autoload.php";

spl_autoload_register(function ($class) {
    $file = getenv("CLIENT") . "/lib/" . str_replace(["OpenAPI\\Client\\", "\\"], ["", "/"], $class) . ".php";
    if (is_file($file)) {
        require $file;
    }
});

// The contract, called by a client that openapi-generator makes of openapi.json.
package main

import (
	"context"
	"fmt"
	"net/http"
	"openapi"
	"os"
	"time"
)

var api *openapi.APIClient

func withKey(key string) context.Context {
	keys := map[string]openapi.APIKey{"apiKey": {Key: key}}
	return context.WithValue(context.Background(), openapi.ContextAPIKeys, keys)
}

// sure ends the program where a call failed.
func sure[T any](value *T, _ *http.Response, err error) *T {
	if err != nil {
		panic(err)
	}
	return value
}

func text(value *string) string {
	if value == nil {
		return "null"
	}
	return *value
}

func show(account *openapi.Account) {
	fmt.Println(account.FenseAccountId, account.Name, account.Email, account.SuppressNotifications,
		account.SuppressBilling, account.IsActive, text(account.ApiKeyLast4.Get()),
		text(account.DisputeAccountId.Get()), account.CreatedAt.Format(time.RFC3339),
		account.UpdatedAt.Format(time.RFC3339))
}

func showUsage(usage *openapi.AccountUsage) {
	fmt.Print(usage.FenseAccountId, " ", text(usage.StartDate.Get()), " ", text(usage.EndDate.Get()),
		" ", text(usage.DisputeAccountId.Get()), " ", usage.TotalLookups)
	for _, day := range usage.Daily {
		fmt.Print(" ", day.Date, "=", day.Lookups)
	}
	fmt.Println()
}

func showError(_ interface{}, response *http.Response, err error) {
	told := err.(*openapi.GenericOpenAPIError).Model().(openapi.ErrorResponse)
	fmt.Print(response.StatusCode, " ", told.Error.Code)
	for _, detail := range told.Error.Details {
		fmt.Print(" ", detail.Field, ": ", detail.Message)
	}
	fmt.Println()
}

func main() {
	configuration := openapi.NewConfiguration()
	configuration.Servers = openapi.ServerConfigurations{{URL: os.Getenv("FENSE_BASE_URL")}}
	api = openapi.NewAPIClient(configuration)
	ctx := withKey(os.Getenv("FENSE_API_KEY"))
	accounts, usage := api.AccountsAPI, api.UsageAPI

	show(sure(accounts.GetAccount(ctx, 1).Execute()))
	show(sure(accounts.GetAccount(ctx, 4294967296).Execute()))

	body := openapi.NewAccountCreate("sk_test_client_0001", "Gamma", "owner@gamma.example")
	body.SetDisputeAccountId("6F1C2A6E-0C1D-4A55-9A3E-0D6F6F0F7D12")
	created := sure(accounts.CreateAccount(ctx).AccountCreate(*body).Execute())
	fmt.Println(created.FenseAccountId, created.Name, text(created.DisputeAccountId.Get()))
	change := openapi.NewAccountUpdate()
	change.SetName("Gamma Zürich")
	change.SetIsActive(false)
	id := created.FenseAccountId
	updated := sure(accounts.UpdateAccount(ctx, id).AccountUpdate(*change).Execute())
	fmt.Println(updated.Name, updated.IsActive, text(updated.DisputeAccountId.Get()))
	change = openapi.NewAccountUpdate()
	change.SetDisputeAccountIdNil()
	updated = sure(accounts.UpdateAccount(ctx, id).AccountUpdate(*change).Execute())
	fmt.Println(updated.Name, updated.IsActive, text(updated.DisputeAccountId.Get()))

	showUsage(sure(usage.GetAccountUsage(ctx, 1).Execute()))
	showUsage(sure(usage.GetAccountUsage(ctx, 1).StartDate("2026-11-01").EndDate("2026-11-01").Execute()))
	one := sure(usage.GetUsage(ctx).FenseAccountId(4294967296).EndDate("2026-11-30").Execute())
	showUsage(one.AccountUsage)
	all := sure(usage.GetUsage(ctx).Execute()).AllUsage
	fmt.Print(text(all.StartDate.Get()), " ", text(all.EndDate.Get()), " ", all.TotalLookups)
	for _, account := range all.Accounts {
		fmt.Print(" ", account.FenseAccountId, "=", account.TotalLookups, "/",
			text(account.DisputeAccountId.Get()))
	}
	fmt.Println()

	showError(accounts.CreateAccount(ctx).AccountCreate(*body).Execute())
	showError(usage.GetUsage(ctx).StartDate("2026-11-01").Execute())
	showError(accounts.GetAccount(withKey("nobody's"), 1).Execute())
	showError(accounts.GetAccount(withKey("short-key"), 1).Execute())
	showError(accounts.GetAccount(ctx, 9007199254740991).Execute())
	health := sure(api.ServiceAPI.GetHealth(ctx).Execute())
	document := sure(api.ServiceAPI.GetOpenapi(ctx).Execute())
	fmt.Println(health.Status, document.Openapi, document.Info["title"])
}

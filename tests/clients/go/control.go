// The control plane, called by a client that openapi-generator makes of standin/openapi.json.
package main

import (
	"context"
	"fmt"
	"net/http"
	"openapi"
	"os"
	"sort"
	"strings"
	"time"
)

func sure[T any](value *T, _ *http.Response, err error) *T {
	done(nil, err)
	return value
}

func done(_ *http.Response, err error) {
	if err != nil {
		panic(err)
	}
}

func text[T any](value *T) string {
	if value == nil {
		return "null"
	}
	return fmt.Sprint(*value)
}

func showState(state *openapi.State) {
	for _, account := range state.Accounts {
		fmt.Print(account.FenseAccountId, " ", account.Name, " ", text(account.ApiKeyLast4.Get()), " ",
			text(account.DisputeAccountId.Get()), " ", account.CreatedAt.Format(time.RFC3339))
		days := []string{}
		for day := range account.Usage {
			days = append(days, day)
		}
		sort.Strings(days)
		for _, day := range days {
			fmt.Print(" ", day, "=", account.Usage[day])
		}
		fmt.Println()
	}
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
	configuration.Servers = openapi.ServerConfigurations{{URL: os.Getenv("FENSE_STANDIN_URL")}}
	api := openapi.NewAPIClient(configuration)
	key := map[string]openapi.APIKey{"apiKey": {Key: os.Getenv("FENSE_API_KEY")}}
	ctx := context.WithValue(context.Background(), openapi.ContextAPIKeys, key)

	now, err := time.Parse(time.RFC3339, "2026-11-30T23:59:58Z")
	done(nil, err)
	stop := openapi.NewClockSent()
	stop.SetNow(now.Format(time.RFC3339))
	sure(api.ClockAPI.SetClock(ctx).ClockSent(*stop).Execute())
	move := openapi.NewClockSent()
	move.SetAdvanceSeconds(1)
	sure(api.ClockAPI.SetClock(ctx).ClockSent(*move).Execute())
	clock := sure(api.ClockAPI.GetClock(ctx).Execute())
	fmt.Println(clock.Now.Format(time.RFC3339), clock.Stopped)

	account := openapi.NewStateAccountSent("Žluťoučký", "owner@beta.example")
	account.SetApiKey("sk_test_client_0002")
	account.SetFenseAccountId(4294967296)
	account.SetUsage(map[string]int64{"-1": 2147483648})
	other := openapi.NewStateAccountSent("Gamma", "owner@gamma.example")
	other.SetApiKey("short")
	other.SetDisputeAccountId("6f1c2a6e-0c1d-4a55-9a3e-0d6f6f0f7d11")
	sent := openapi.NewStateSent([]openapi.StateAccountSent{*account, *other})
	sure(api.StateAPI.PutState(ctx).StateSent(*sent).Execute())
	first := openapi.NewLookupsSent(4294967296, 1000000000000)
	date, before := "2026-11-01", int32(-1)
	first.SetDate(openapi.DayOrBefore{String: &date})
	second := openapi.NewLookupsSent(4294967296, 1)
	second.SetDate(openapi.DayOrBefore{Int32: &before})
	entries := []openapi.LookupsSent{*first, *second}
	recorded := sure(api.StateAPI.RecordUsage(ctx).LookupsSent(entries).Execute())
	fmt.Println(recorded.Recorded)
	showState(sure(api.StateAPI.GetState(ctx).Execute()))

	fault := openapi.NewFaultSent()
	fault.SetStatus(503)
	fault.SetPath("/accounts/*")
	fault.SetHeaders(map[string]string{"Retry-After": "7"})
	fault.SetMessage("zu spät")
	sure(api.FaultsAPI.ArmFault(ctx).FaultSent(*fault).Execute())
	fault = openapi.NewFaultSent()
	fault.SetDrop("reset")
	delay := int32(1)
	fault.SetDelayMs(openapi.FaultSentDelayMs{Int32: &delay})
	fault.SetTimes(1000000000000)
	sure(api.FaultsAPI.ArmFault(ctx).FaultSent(*fault).Execute())
	for _, path := range []string{"/accounts/1", "/accounts/1?x", "/nowhere"} {
		request, _ := http.NewRequest("POST", os.Getenv("FENSE_BASE_URL")+path, strings.NewReader("{}"))
		request.Header.Set("x-api-key", os.Getenv("FENSE_API_KEY"))
		if response, err := http.DefaultClient.Do(request); err == nil {
			response.Body.Close()
		}
	}
	for _, fault := range sure(api.FaultsAPI.GetFaults(ctx).Execute()).Faults {
		fmt.Println(fault.Id, text(fault.Status), text(fault.Drop), fault.Times > 999999000000, fault.Used > 0)
	}
	for _, entry := range sure(api.JournalAPI.GetRequests(ctx).Execute()).Requests {
		fmt.Println(entry.Method, entry.Path, entry.Query, text(entry.Status.Get()), text(entry.Body.Get()),
			len(text(entry.Response.Get())) > 4, entry.DurationMs.Get() != nil, text(entry.Fault.Get()),
			time.Since(entry.At) < time.Minute, len(entry.Headers) > 0)
	}

	instance := openapi.NewInstanceSent()
	demo := "demo"
	instance.SetSeed(openapi.InstanceSentSeed{String: &demo})
	made := sure(api.InstancesAPI.CreateInstance(ctx).InstanceSent(*instance).Execute())
	instance.SetSeed(openapi.InstanceSentSeed{StateSent: sent})
	sure(api.InstancesAPI.CreateInstance(ctx).InstanceSent(*instance).Execute())
	done(api.InstancesAPI.EndInstance(ctx, made.Id).Execute())
	listed := sure(api.InstancesAPI.GetInstances(ctx).Execute()).Instances
	fmt.Println(len(made.Id), len(made.ApiKey) > 0, len(listed))

	showError(api.FaultsAPI.ArmFault(ctx).FaultSent(*openapi.NewFaultSent()).Execute())
	showError(api.StateAPI.RecordUsage(ctx).LookupsSent([]openapi.LookupsSent{*openapi.NewLookupsSent(9, 1)}).Execute())
	showError(api.StateAPI.GetState(context.Background()).Execute())
	fmt.Println(sure(api.ServiceAPI.GetControlOpenapi(ctx).Execute()).Openapi)
	done(api.FaultsAPI.DisarmFaults(ctx).Execute())
	done(api.JournalAPI.ForgetRequests(ctx).Execute())
	done(api.ClockAPI.ReleaseClock(ctx).Execute())
	done(api.StateAPI.Reset(ctx).Execute())
	fmt.Println(len(sure(api.StateAPI.GetState(ctx).Execute()).Accounts))
}

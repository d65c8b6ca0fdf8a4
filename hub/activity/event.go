package activity

import (
	"net/http"
	"strings"

	"headwater.dev/api/arm"
)

func (e Entry) status() string {
	switch {
	case e.Status >= 400:
		return "Failed"
	case e.Accepted:
		return "Accepted"
	default:
		return "Succeeded"
	}
}

func (e Entry) level() string {
	if e.Status >= 400 {
		return "Error"
	}
	return "Informational"
}

// typeOf is the resource type of an action.
func typeOf(action string) string {
	parts := strings.Split(action, "/")
	if n := len(parts); n > 2 && strings.EqualFold(parts[n-1], "action") {
		parts = parts[:n-1]
	}
	if len(parts) < 2 {
		return action
	}
	return strings.Join(parts[:len(parts)-1], "/")
}

func groupOf(scope string) string {
	id, err := arm.ParseID(scope)
	if err != nil {
		return ""
	}
	return id.ResourceGroup()
}

func subscriptionOf(scope string) string {
	id, err := arm.ParseID(scope)
	if err != nil {
		return ""
	}
	return id.Subscription()
}

// localizable is how the service words a term: for machines and for people.
func localizable(s string) map[string]string {
	return map[string]string{"value": s, "localizedValue": s}
}

// event is an entry as Microsoft.Insights shows it.
func (e Entry) event() map[string]any {
	provider, _, _ := strings.Cut(e.Action, "/")
	properties := map[string]string{"statusCode": http.StatusText(e.Status), "callerObjectId": e.CallerObjectID}
	if e.Code != "" {
		properties["errorCode"] = e.Code
	}
	if e.CallerName != "" {
		properties["callerName"] = e.CallerName
	}
	if e.CallerIssuer != "" {
		properties["callerIssuer"] = e.CallerIssuer
	}
	for name, value := range e.Notes {
		properties[name] = value
	}
	var changed []string
	for _, c := range e.Changes {
		changed = append(changed, strings.TrimSpace(c.Op+" "+c.Path))
	}
	if len(changed) > 0 {
		properties["changes"] = strings.Join(changed, ", ")
	}
	m := map[string]any{
		"id":          e.ResourceID + "/events/" + e.ID + "/ticks/" + inverse(e.At),
		"eventDataId": e.ID, "correlationId": e.Correlation, "operationId": e.RequestID,
		"eventName": localizable("End request"), "category": localizable("Administrative"), "channels": "Operation",
		"authorization": map[string]string{"action": e.Action, "scope": e.Scope},
		"caller":        e.Caller, "claims": map[string]string{"oid": e.CallerObjectID, "appid": e.Caller},
		"operationName": localizable(e.Action), "resourceGroupName": groupOf(e.Scope), "resourceId": e.ResourceID,
		"resourceProviderName": localizable(provider), "resourceType": localizable(typeOf(e.Action)),
		"status": localizable(e.status()), "subStatus": localizable(http.StatusText(e.Status)), "level": e.level(),
		"eventTimestamp": e.At, "submissionTimestamp": e.At, "subscriptionId": subscriptionOf(e.Scope), "properties": properties,
		"httpRequest": map[string]string{"clientIpAddress": e.From, "clientRequestId": e.ClientRequestID, "method": e.Method, "uri": e.ResourceID},
	}
	if len(e.Changes) > 0 {
		m["changes"] = e.Changes
	}
	return m
}

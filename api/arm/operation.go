package arm

import "time"

// Headers of long-running operations and of request tracing.
const (
	HeaderAsyncOperation  = "Azure-AsyncOperation"
	HeaderRetryAfter      = "Retry-After"
	HeaderRequestID       = "x-ms-request-id"
	HeaderCorrelationID   = "x-ms-correlation-request-id"
	HeaderClientRequestID = "x-ms-client-request-id"
	HeaderReturnClientID  = "x-ms-return-client-request-id"
)

// Status words of an operation. Clients poll until one of the last three; the
// others are on the list every client in the field knows ("Deleting" is not,
// so a deletion is InProgress).
const (
	StatusInProgress = "InProgress"
	StatusCreating   = "Creating"
	StatusUpdating   = "Updating"
	StatusSucceeded  = "Succeeded"
	StatusFailed     = "Failed"
	StatusCanceled   = "Canceled"
)

// Operation is the document a client polls. Status is always present; Error is
// set exactly when Status is Failed or Canceled.
type Operation struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Status     string            `json:"status"`
	StartTime  *time.Time        `json:"startTime,omitempty"`
	EndTime    *time.Time        `json:"endTime,omitempty"`
	Properties map[string]string `json:"properties"`
	Error      *Error            `json:"error"`
}

// Done reports whether the operation has ended.
func (o Operation) Done() bool {
	return Fold(o.Status) == "succeeded" || Fold(o.Status) == "failed" || Fold(o.Status) == "canceled"
}

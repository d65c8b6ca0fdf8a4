package arm

import (
	"errors"
	"fmt"
)

// The error codes the hub answers with.
const (
	CodeInternal             = "InternalServerError"
	CodeNotFound             = "ResourceNotFound"
	CodeGroupNotFound        = "ResourceGroupNotFound"
	CodeSubscriptionNotFound = "SubscriptionNotFound"
	CodeInvalidNamespace     = "InvalidResourceNamespace"
	CodeInvalidType          = "InvalidResourceType"
	CodeRouteNotFound        = "PathNotFound"
	CodeMethodNotAllowed     = "MethodNotAllowed"
	CodeMissingAPIVersion    = "MissingApiVersionParameter"
	CodeInvalidAPIVersion    = "InvalidApiVersionParameter"
	CodeNotRegistered        = "MissingSubscriptionRegistration"
	CodeInvalidBody          = "InvalidRequestContent"
	CodeInvalidParameter     = "InvalidParameter"
	CodeInvalidID            = "InvalidResourceId"
	CodeLocationChanged      = "InvalidResourceLocation"
	CodeValidationFailed     = "ValidationFailed"
	CodeConflict             = "Conflict"
	CodeUnauthenticated      = "AuthenticationFailed"
	CodeForbidden            = "AuthorizationFailed"
	CodeBodyTooLarge         = "RequestContentTooLarge"
	CodeUnsupportedMediaType = "UnsupportedMediaType"
	CodeUnavailable          = "ServiceUnavailable"
	CodeOperationFailed      = "OperationFailed"
	CodeAgentTimeout         = "AgentTimeout"
	CodeResourceBeingDeleted = "ResourceBeingDeleted"
	CodeGroupBeingDeleted    = "ResourceGroupBeingDeleted"
	CodeNotSupported         = "OperationNotSupported"
	CodeOperationNotFound    = "OperationNotFound"

	CodeScopeLocked        = "ScopeLocked"
	CodeLockNotFound       = "LockNotFound"
	CodeAssignmentExists   = "RoleAssignmentExists"
	CodeAssignmentNotFound = "RoleAssignmentNotFound"
	CodeAssignmentFixed    = "RoleAssignmentUpdateNotPermitted"
	CodeRoleNotFound       = "RoleDefinitionDoesNotExist"
	CodeRoleInUse          = "RoleDefinitionHasAssignments"
	CodeLastOwner          = "LastOwner"
	CodeLimitReached       = "LimitReached"
	CodeTooManyRequests    = "TooManyRequests"
	CodePreconditionFailed = "PreconditionFailed"
)

// Error is the error of an ARM response (common-types v3). It is an error: its
// text is the message with the code before it.
type Error struct {
	Code           string           `json:"code"`
	Message        string           `json:"message"`
	Target         string           `json:"target,omitempty"`
	Details        []Error          `json:"details,omitempty"`
	AdditionalInfo []AdditionalInfo `json:"additionalInfo,omitempty"`
}

// AdditionalInfo is one typed addition to an Error.
type AdditionalInfo struct {
	Type string `json:"type"`
	Info any    `json:"info,omitempty"`
}

// ErrorBody is the whole body of an answer that is not a success.
type ErrorBody struct {
	Error Error `json:"error"`
}

// Errorf makes an Error with a formatted message.
func Errorf(code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Error returns "code: message", followed by the details.
func (e *Error) Error() string {
	s := e.Code + ": " + e.Message
	for _, d := range e.Details {
		if d.Target != "" {
			s += "; " + d.Target + ": " + d.Message
			continue
		}
		s += "; " + d.Message
	}
	return s
}

// CodeOf returns the code of the Error in err's chain, empty when there is none.
func CodeOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

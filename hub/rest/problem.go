package rest

import (
	"errors"
	"net/http"

	"headwater.dev/api/arm"
	"headwater.dev/hub/auth"
	"headwater.dev/hub/store"
	"headwater.dev/hub/vault"
)

// statusOf is the one table of error codes and HTTP statuses.
func statusOf(code string) int {
	switch code {
	case arm.CodeNotFound, arm.CodeGroupNotFound, arm.CodeSubscriptionNotFound, arm.CodeInvalidNamespace,
		arm.CodeInvalidType, arm.CodeRouteNotFound, arm.CodeOperationNotFound, arm.CodeLockNotFound, arm.CodeAssignmentNotFound:
		return http.StatusNotFound
	case arm.CodeMethodNotAllowed:
		return http.StatusMethodNotAllowed
	case arm.CodeNotRegistered, arm.CodeConflict, arm.CodeResourceBeingDeleted, arm.CodeGroupBeingDeleted, arm.CodeScopeLocked, arm.CodeAssignmentExists,
		arm.CodeRoleInUse, arm.CodeLastOwner, arm.CodeLimitReached:
		return http.StatusConflict
	case arm.CodePreconditionFailed:
		return http.StatusPreconditionFailed
	case arm.CodeTooManyRequests:
		return http.StatusTooManyRequests
	case arm.CodeUnauthenticated:
		return http.StatusUnauthorized
	case arm.CodeForbidden:
		return http.StatusForbidden
	case arm.CodeBodyTooLarge:
		return http.StatusRequestEntityTooLarge
	case arm.CodeUnsupportedMediaType:
		return http.StatusUnsupportedMediaType
	case arm.CodeUnavailable:
		return http.StatusServiceUnavailable
	case arm.CodeInternal:
		return http.StatusInternalServerError
	default:
		return http.StatusBadRequest
	}
}

// fail answers with an error. Errors that have a code go out as they are;
// of all others the client learns the request id only.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	var coded *arm.Error
	var denied *auth.Denial
	switch {
	case errors.As(err, &coded):
		write(w, coded)
	case errors.As(err, &denied):
		if denied.Status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", s.directory.Challenge())
		}
		writeStatus(w, denied.Status, &arm.Error{Code: denied.Code, Message: denied.Message})
	case errors.Is(err, vault.ErrTooLarge):
		write(w, arm.Errorf(arm.CodeValidationFailed, "The protected settings are too large: at most %d bytes together.", vault.MaxBytes))
	case errors.Is(err, store.ErrConflict):
		write(w, arm.Errorf(arm.CodeConflict, "The resource was changed by somebody else at the same time: try again."))
	case errors.Is(err, store.ErrFull):
		s.log.Error("storage full", "path", r.URL.Path, "error", err)
		w.Header().Set(arm.HeaderRetryAfter, "60")
		write(w, arm.Errorf(arm.CodeUnavailable, "The hub's storage is full and nothing was changed. Reads go on, and so does deleting with forceDelete=true; "+
			"whoever runs the hub can make space, see 'hub check' and 'hub compact'."))
	case errors.Is(err, store.ErrUnavailable) || r.Context().Err() != nil:
		s.log.Error("storage unavailable", "path", r.URL.Path, "error", err)
		w.Header().Set(arm.HeaderRetryAfter, "5")
		write(w, arm.Errorf(arm.CodeUnavailable, "The hub's storage cannot be reached: try again."))
	default:
		s.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "error", err,
			"requestId", w.Header().Get(arm.HeaderRequestID))
		write(w, arm.Errorf(arm.CodeInternal, "The hub could not answer; the request id %s finds the reason in its log.",
			w.Header().Get(arm.HeaderRequestID)))
	}
}

// outcome is the status and the code of an answer that was or will be given.
func outcome(w http.ResponseWriter, err error) (int, string) {
	var coded *arm.Error
	var denied *auth.Denial
	switch {
	case err == nil:
		if sw, ok := w.(*statusWriter); ok && sw.status != 0 {
			return sw.status, ""
		}
		return http.StatusOK, ""
	case errors.As(err, &coded):
		return statusOf(coded.Code), coded.Code
	case errors.As(err, &denied):
		return denied.Status, denied.Code
	case errors.Is(err, vault.ErrTooLarge):
		return statusOf(arm.CodeValidationFailed), arm.CodeValidationFailed
	case errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrExists): // somebody was quicker
		return http.StatusConflict, arm.CodeConflict
	case errors.Is(err, store.ErrUnavailable):
		return http.StatusServiceUnavailable, arm.CodeUnavailable
	default:
		return http.StatusInternalServerError, arm.CodeInternal
	}
}

func write(w http.ResponseWriter, e *arm.Error) { writeStatus(w, statusOf(e.Code), e) }

func writeStatus(w http.ResponseWriter, status int, e *arm.Error) {
	raw, err := encode(arm.ErrorBody{Error: *e})
	if err != nil {
		status, raw = http.StatusInternalServerError, []byte(`{"error":{"code":"InternalServerError","message":""}}`)
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("x-ms-error-code", e.Code)
	w.WriteHeader(status)
	_, _ = w.Write(raw)
}

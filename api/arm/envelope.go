package arm

// Page is one page of a list. NextLink is an absolute URL, empty on the last.
type Page[T any] struct {
	Value    []T    `json:"value"`
	NextLink string `json:"nextLink,omitempty"`
}

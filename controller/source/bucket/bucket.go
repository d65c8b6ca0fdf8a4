// Package bucket reads object storages: those with the API of S3, Google Cloud
// Storage and Azure Blob Storage, behind one interface.
//
// A Driver lists objects with their ETags and opens them in exactly the state
// in which they were listed. What a storage answers is reduced to a status and
// a code: its texts come from outside and are not repeated.
package bucket

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
)

var (
	// ErrNotFound says that there is no such object.
	ErrNotFound = errors.New("object not found")
	// ErrNoBucket says that there is no such bucket.
	ErrNoBucket = errors.New("bucket not found")
	// ErrDenied says that the storage refuses the credentials, or wants some.
	ErrDenied = errors.New("the storage refuses the credentials")
	// ErrChanged says that an object is no longer what was listed.
	ErrChanged = errors.New("object changed while it was read")
	// ErrUnsafe says that an object's key cannot be the path of a file.
	ErrUnsafe = errors.New("unsafe object key")
	// ErrTooLarge says that there is more than may be fetched.
	ErrTooLarge = errors.New("too large")
	// ErrConfig says that a setting cannot work.
	ErrConfig = errors.New("invalid configuration")
)

// Object is an object of a bucket.
type Object struct {
	// Key is its name within the bucket, as the storage gives it.
	Key string
	// ETag identifies the content, without quotes where the storage has them.
	ETag string
	// Size in bytes.
	Size int64
	// version is what a driver needs to open this very state.
	version string
}

// Driver reads one bucket.
type Driver interface {
	// List calls visit for every object whose key begins with prefix, in the
	// storage's order, until visit gives an error.
	List(ctx context.Context, prefix string, visit func(Object) error) error
	// Stat gives one object without its content, or ErrNotFound.
	Stat(ctx context.Context, key string) (Object, error)
	// Open gives the content of an object that was listed, or ErrChanged.
	Open(ctx context.Context, o Object) (io.ReadCloser, error)
}

// Config is what all drivers need to know.
type Config struct {
	// Bucket is the bucket's name, or the container's.
	Bucket string
	// Endpoint is the storage: a host with or without a port, or a URL.
	Endpoint string
	// Region may be empty.
	Region string
	// Insecure means http, when Endpoint has no scheme.
	Insecure bool
	// Transport sends the requests.
	Transport http.RoundTripper
}

// client gives a client that follows no redirects: storages have none, and
// credentials are not for other hosts.
func (c Config) client() *http.Client {
	return &http.Client{
		Transport:     c.Transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// answer classifies an answer that is not a success.
func answer(status int, code string) error {
	code = plainCode(code)
	switch {
	case status == http.StatusPreconditionFailed:
		return ErrChanged
	case code == "NoSuchBucket" || code == "ContainerNotFound":
		return ErrNoBucket
	case code == "NoSuchKey" || code == "BlobNotFound":
		return ErrNotFound
	case status == http.StatusUnauthorized || status == http.StatusForbidden || code == "InvalidAuthenticationInfo":
		return fmt.Errorf("%w (%s)", ErrDenied, strings.TrimSpace(fmt.Sprintf("%d %s", status, code)))
	case status == http.StatusNotFound:
		return ErrNotFound
	}
	return fmt.Errorf("the storage answered %s", strings.TrimSpace(fmt.Sprintf("%d %s", status, code)))
}

// plainCode leaves of a code from outside what codes consist of.
func plainCode(code string) string {
	code = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, code)
	return code[:min(len(code), 60)]
}

// CheckKey returns ErrUnsafe unless key can be the path of a file below a
// folder: relative, in its shortest form, without NUL and backslash.
func CheckKey(key string) error {
	if key == "" || len(key) > 4096 || strings.HasPrefix(key, "/") || strings.ContainsAny(key, "\\\x00") ||
		path.Clean(key) != key || key == "." || key == ".." || strings.HasPrefix(key, "../") {
		return fmt.Errorf("%w: %.200q cannot be the path of a file", ErrUnsafe, key)
	}
	for segment := range strings.SplitSeq(key, "/") {
		if len(segment) > 255 {
			return fmt.Errorf("%w: %.200q has a segment of more than 255 bytes", ErrUnsafe, key)
		}
	}
	return nil
}

// CheckKeys returns ErrUnsafe when a key is at once a file and the folder of
// another key.
func CheckKeys[V any](keys map[string]V) error {
	for key := range keys {
		for dir := path.Dir(key); dir != "."; dir = path.Dir(dir) {
			if _, clash := keys[dir]; clash {
				return fmt.Errorf("%w: %.200q is an object and a folder of %.200q", ErrUnsafe, dir, key)
			}
		}
	}
	return nil
}

// Revision is the digest of the keys with their ETags, as Flux computes it.
func Revision(objects map[string]Object) string {
	h := sha256.New()
	for _, key := range slices.Sorted(maps.Keys(objects)) {
		fmt.Fprintf(h, "%s %s\n", key, objects[key].ETag)
	}
	return fmt.Sprintf("sha256:%x", h.Sum(nil))
}

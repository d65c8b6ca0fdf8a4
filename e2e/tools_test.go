package e2e

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/rogpeppe/go-internal/testscript"

	"headwater.dev/dev/blobstore"
	"headwater.dev/dev/sealed"
)

// The account of the storage that storage starts.
const (
	accessKey = "stories"
	secretKey = "canary-4712-secret"
)

// keep NAME PATTERN sets a variable to the first group of the pattern in the
// last standard output.
func keep(ts *testscript.TestScript, neg bool, args []string) {
	pattern, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	found := pattern.FindStringSubmatch(ts.ReadFile("stdout"))
	if len(found) < 2 {
		ts.Fatalf("%q has no group in %s", args[1], ts.ReadFile("stdout"))
	}
	ts.Setenv(args[0], found[1])
}

// seal KEYFILE FIELDS FILE... encrypts fields of YAML files with a new key, as
// sops does; the key goes to a file of its own.
func seal(ts *testscript.TestScript, neg bool, args []string) {
	key, err := sealed.NewKey()
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(key.Private()+"\n"), 0o600))
	for _, file := range args[2:] {
		text, err := key.Encrypt("yaml", ts.ReadFile(file), args[1])
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(file), []byte(text), 0o600))
	}
}

// storage starts an S3 server for the rest of the story; $S3_URL, $S3_ACCESS_KEY
// and $S3_SECRET_KEY reach it.
func storage(t *testing.T) verb {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		dir := ts.MkAbs(".storage")
		ts.Check(os.MkdirAll(dir, 0o700))
		server, err := blobstore.S3(t.Context(), dir, accessKey, secretKey)
		if errors.Is(err, blobstore.ErrMissing) {
			t.Skip(err)
		}
		ts.Check(err)
		ts.Defer(server.Close)
		ts.Setenv("S3_URL", "http://"+server.Addr)
		ts.Setenv("S3_ACCESS_KEY", accessKey)
		ts.Setenv("S3_SECRET_KEY", secretKey)
	}
}

// upload BUCKET DIR puts the folder's files into a bucket, which it makes.
func upload(t *testing.T) verb {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		client, err := minio.New(strings.TrimPrefix(ts.Getenv("S3_URL"), "http://"), &minio.Options{Creds: credentials.NewStaticV4(accessKey, secretKey, "")})
		ts.Check(err)
		exists, err := client.BucketExists(t.Context(), args[0])
		if err == nil && !exists {
			err = client.MakeBucket(t.Context(), args[0], minio.MakeBucketOptions{})
		}
		ts.Check(err)
		root := ts.MkAbs(args[1])
		ts.Check(filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			key, err := filepath.Rel(root, p)
			if err != nil {
				return err
			}
			_, err = client.FPutObject(t.Context(), args[0], filepath.ToSlash(key), p, minio.PutObjectOptions{})
			return err
		}))
	}
}

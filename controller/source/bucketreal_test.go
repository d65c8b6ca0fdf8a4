package source

import (
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"headwater.dev/dev/blobstore"
	"headwater.dev/dev/kubetest"
)

type upload struct{ *strings.Reader }

func (upload) Close() error { return nil }

// testRealStorages reads buckets whose storages check signatures.
func testRealStorages(t *testing.T, c *kubetest.Cluster) {
	p, stop := begin(t, c, t.TempDir(), "0")
	t.Cleanup(stop)
	w := p.world(t, c)
	running := func(s *blobstore.Server, err error) *blobstore.Server {
		t.Helper()
		if errors.Is(err, blobstore.ErrMissing) {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		return s
	}
	gateway := running(blobstore.S3(t.Context(), t.TempDir(), "key", canary))
	admin, err := minio.New(gateway.Addr, &minio.Options{Creds: credentials.NewStaticV4("key", canary, "")})
	if err != nil {
		t.Fatal(err)
	}
	if err := admin.MakeBucket(t.Context(), "data", minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	put := func(key, content string) {
		if _, err := admin.PutObject(t.Context(), "data", key, strings.NewReader(content), int64(len(content)), minio.PutObjectOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	put("app/a.yaml", "a: 1\n")
	put("app/notes.md", "no")
	put(".sourceignore", "*.md\n")
	w.secret("keys", "accesskey", "key", "secretkey", canary)
	o := newBucket("gateway", gateway.Addr, func(b *sourcev1.Bucket) { b.Spec.Prefix = "app/" })
	w.create(o)
	first := w.ready(o, "").Revision
	if diff := cmp.Diff(map[string]string{"app/a.yaml": "a: 1\n"}, untar(t, w.download(o.Status.Artifact))); diff != "" {
		t.Error(diff)
	}
	put("app/notes.md", "still no")
	w.request(o)
	w.ready(o, first)
	wrong := w.secret("wrong", "accesskey", "key", "secretkey", "wrong-"+canary)
	bad := newBucket("wrong", gateway.Addr, func(b *sourcev1.Bucket) { b.Spec.SecretRef.Name = "wrong" })
	w.create(bad)
	w.failing(bad, sourcev1.AuthenticationFailedReason, "403")
	w.update(wrong, func() { wrong.StringData = map[string]string{"secretkey": canary} })
	w.ready(bad, "") // at once: its interval is an hour

	key := base64.StdEncoding.EncodeToString([]byte(canary))
	azurite := running(blobstore.Azure(t.Context(), t.TempDir(), "devaccount", key))
	shared, err := container.NewSharedKeyCredential("devaccount", key)
	if err != nil {
		t.Fatal(err)
	}
	endpoint := "http://" + azurite.Addr + "/devaccount"
	options := &container.ClientOptions{}
	options.Transport = http.DefaultClient
	blobs, err := container.NewClientWithSharedKeyCredential(endpoint+"/data", shared, options)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := blobs.Create(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := blobs.NewBlockBlobClient("b.yaml").Upload(t.Context(), upload{strings.NewReader("b: 1\n")}, nil); err != nil {
		t.Fatal(err)
	}
	w.secret("azure", "accountKey", key)
	az := newBucket("azure", endpoint, func(b *sourcev1.Bucket) {
		b.Spec.Provider, b.Spec.SecretRef.Name, b.Spec.Endpoint = sourcev1.BucketProviderAzure, "azure", endpoint
	})
	w.create(az)
	if diff := cmp.Diff(map[string]string{"b.yaml": "b: 1\n"}, untar(t, w.download(w.ready(az, "")))); diff != "" {
		t.Error(diff)
	}
}

package cloud

import (
	"errors"
	"net/url"
	"testing"
)

// TestWhoIsShownTokens shows that tokens of an identity go to the provider
// alone, and not to hosts that look like it.
func TestWhoIsShownTokens(t *testing.T) {
	sts := func(u *url.URL) error { _, err := STSEndpoint(u.String()); return err }
	git := func(u *url.URL) error { return ServesGit(Azure, u) }
	ecr := func(u *url.URL) error { return ServesRegistry(AWS, u.Host+u.Path) }
	azure := func(u *url.URL) error { return ServesStorage(Azure, u) }
	gcp := func(u *url.URL) error { return ServesStorage(GCP, u) }
	for name, c := range map[string]struct {
		serves    func(*url.URL) error
		good, bad []string
	}{
		"git": {git,
			[]string{"https://dev.azure.com/org/project/_git/app", "https://org.visualstudio.com/project/_git/app", "https://DEV.azure.com:443/o/p/_git/r"},
			[]string{"http://dev.azure.com/o", "https://evil.example/dev.azure.com", "https://dev.azure.com.evil.example/o", "https://xdev.azure.com/o", "https://dev.azure.com:8443/o", "ssh://dev.azure.com/o"}},
		"ecr": {ecr,
			[]string{"oci://123456789012.dkr.ecr.eu-central-1.amazonaws.com/app", "oci://123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn/a/b", "oci://123456789012.dkr-ecr.us-east-1.on.aws/app", "oci://public.ecr.aws/app"},
			[]string{"oci://123456789012.dkr.ecr.eu-central-1.amazonaws.com.evil.example/app", "oci://evil.example/123456789012.dkr.ecr.eu-central-1.amazonaws.com", "oci://1.dkr.ecr.x.on.aws.evil.example/app", "oci://123456789012.dkr.ecr.eu-central-1.amazonaws.com:8443/app"}},
		"azure": {azure,
			[]string{"https://account.blob.core.windows.net", "https://account.z12.blob.storage.azure.net", "https://account-secondary.blob.core.usgovcloudapi.net"},
			[]string{"http://account.blob.core.windows.net", "https://blob.core.windows.net.evil.example", "https://evil.example/x.blob.core.windows.net", "https://127.0.0.1:10000/account", "https://a.web.core.windows.net"}},
		"gcp": {gcp,
			[]string{"https://storage.googleapis.com", "https://storage.europe-west3.rep.googleapis.com"},
			[]string{"http://storage.googleapis.com", "https://googleapis.com.evil.example", "https://evilgoogleapis.com", "https://evil.example"}},
		"sts": {sts,
			[]string{"https://sts.amazonaws.com", "https://sts.eu-central-1.amazonaws.com/", "https://sts-fips.us-east-1.amazonaws.com", "https://vpce-1-2.sts.eu-central-1.vpce.amazonaws.com", "https://sts.cn-north-1.amazonaws.com.cn"},
			[]string{"http://sts.amazonaws.com", "https://evil.example/a.sts.amazonaws.com", "https://evil.example?a.sts.amazonaws.com", "https://evil.example#a.sts.amazonaws.com", "https://a@sts.amazonaws.com", "https://sts.amazonaws.com.evil.example"}},
	} {
		for want, list := range map[bool][]string{true: c.good, false: c.bad} {
			for _, raw := range list {
				u, err := url.Parse(raw)
				if err != nil {
					t.Fatal(err)
				}
				err = c.serves(u)
				if (err == nil) != want || err != nil && !errors.Is(err, ErrUnsupported) {
					t.Errorf("%s: %s: %v", name, raw, err)
				}
			}
		}
	}
}

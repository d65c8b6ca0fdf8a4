package cloud

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/fluxcd/pkg/auth"
)

// Hosts that are shown the tokens of an identity. A token says who somebody is
// and not where it may be used: whoever is shown one has it.
var (
	gitOfAzure     = regexp.MustCompile(`^(dev\.azure\.com|[a-z0-9-]+\.visualstudio\.com)$`)
	storageOfAzure = regexp.MustCompile(`^[a-z0-9-]+(\.z[0-9]+)?\.(blob\.core\.windows\.net|blob\.core\.usgovcloudapi\.net|blob\.core\.chinacloudapi\.cn|blob\.storage\.azure\.net)$`)
	storageOfGCP   = regexp.MustCompile(`^([a-z0-9-]+\.)*googleapis\.com$`)
	registryOfAWS  = regexp.MustCompile(`^(public\.ecr\.aws|[0-9]+\.dkr[.-]ecr(-fips)?\.[a-z0-9-]+\.(amazonaws\.com(\.cn)?|amazonaws\.eu|sc2s\.sgov\.gov|c2s\.ic\.gov|cloud\.adc-e\.uk|csp\.hci\.ic\.gov|on\.aws))$`)
	stsOfAWS       = regexp.MustCompile(`^([a-z0-9-]+\.)*sts(-fips)?(\.[a-z0-9-]+)?(\.vpce)?\.amazonaws\.com(\.cn)?$`)
)

// ServesRegistry reports whether the credentials of a provider may be sent to a
// registry, given as "<host>/<repository>". It is ErrUnsupported when they may
// not.
func ServesRegistry(provider, repository string) error {
	if provider != AWS {
		return nil // the others judge it themselves
	}
	host, _, _ := strings.Cut(repository, "/")
	return serves("AWS's ECR, such as <account>.dkr.ecr.<region>.amazonaws.com", registryOfAWS, &url.URL{Scheme: "https", Host: host})
}

// ServesGit reports whether the tokens of a provider may be sent to a Git
// server. It is ErrUnsupported when they may not.
func ServesGit(provider string, u *url.URL) error {
	if provider != Azure {
		return nil // the others judge it themselves
	}
	return serves("Azure DevOps, which is https://dev.azure.com", gitOfAzure, u)
}

// ServesStorage reports whether the tokens of a provider may be sent to a
// storage. It is ErrUnsupported when they may not. AWS is not asked for: its
// storages see signatures and no tokens.
func ServesStorage(provider string, u *url.URL) error {
	switch provider {
	case Azure:
		return serves("Azure Blob Storage, such as https://<account>.blob.core.windows.net", storageOfAzure, u)
	case GCP:
		return serves("Google Cloud Storage, which is storage.googleapis.com", storageOfGCP, u)
	}
	return fmt.Errorf("%w: %q has no tokens for storages", ErrUnsupported, provider)
}

func serves(what string, hosts *regexp.Regexp, u *url.URL) error {
	if u.Scheme == "https" && u.User == nil && (u.Port() == "" || u.Port() == "443") && hosts.MatchString(strings.ToLower(u.Hostname())) {
		return nil
	}
	return fmt.Errorf("%w: a cloud's identity is shown to nobody but %s", ErrUnsupported, what)
}

// STSEndpoint is the option for an endpoint of AWS's Security Token Service. One
// of anybody else is ErrUnsupported: it would be shown the token that an
// identity is exchanged for.
func STSEndpoint(endpoint string) (auth.Option, error) {
	u, err := url.Parse(endpoint)
	if err == nil && (u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "") {
		err = errors.New("it has more than a host")
	}
	if err == nil {
		err = serves("AWS's STS, such as https://sts.<region>.amazonaws.com", stsOfAWS, u)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: the STS endpoint must be https:// and a host of AWS's STS, such as https://sts.eu-central-1.amazonaws.com", ErrUnsupported)
	}
	return auth.WithSTSEndpoint(endpoint), nil
}

package resource

import "time"

// ExtensionFlux is the extension type of GitOps, compared case-insensitively.
const ExtensionFlux = "microsoft.flux"

// ExtensionProperties is what a user asks for of a cluster extension.
type ExtensionProperties struct {
	ExtensionType           string            `json:"extensionType"`
	AutoUpgradeMinorVersion bool              `json:"autoUpgradeMinorVersion"`
	AutoUpgradeMode         string            `json:"autoUpgradeMode,omitempty"`
	ReleaseTrain            string            `json:"releaseTrain"`
	Version                 *string           `json:"version"`
	Scope                   *ExtensionScope   `json:"scope"`
	ConfigurationSettings   map[string]string `json:"configurationSettings"`
}

// ExtensionScope is where an extension is installed; exactly one is set.
type ExtensionScope struct {
	Cluster   *ExtensionScopeCluster   `json:"cluster,omitempty"`
	Namespace *ExtensionScopeNamespace `json:"namespace,omitempty"`
}

// ExtensionScopeCluster installs once for the cluster.
type ExtensionScopeCluster struct {
	ReleaseNamespace string `json:"releaseNamespace"`
}

// ExtensionScopeNamespace installs for one namespace.
type ExtensionScopeNamespace struct {
	TargetNamespace string `json:"targetNamespace"`
}

// ExtensionObserved is what the agent reports of an extension.
type ExtensionObserved struct {
	AcceptedGeneration int64             `json:"acceptedGeneration"`
	AcceptedAt         time.Time         `json:"acceptedAt"`
	Error              *ErrorDetail      `json:"error,omitempty"`
	CurrentVersion     string            `json:"currentVersion,omitempty"`
	Statuses           []ExtensionStatus `json:"statuses"`
	StatusUpdatedAt    *time.Time        `json:"statusUpdatedAt,omitempty"`
}

// ExtensionStatus is a message about an extension; Level is Error, Warning or
// Information.
type ExtensionStatus struct {
	Code          string `json:"code"`
	DisplayStatus string `json:"displayStatus"`
	Level         string `json:"level"`
	Message       string `json:"message"`
	Time          string `json:"time"`
}

package resource

// SourceControlProperties is a sourceControlConfiguration (Flux v1), which the
// hub keeps and nothing carries out.
type SourceControlProperties struct {
	RepositoryURL         string `json:"repositoryUrl"`
	OperatorNamespace     string `json:"operatorNamespace"`
	OperatorInstanceName  string `json:"operatorInstanceName"`
	OperatorType          string `json:"operatorType"`
	OperatorParams        string `json:"operatorParams"`
	OperatorScope         string `json:"operatorScope"`
	SSHKnownHostsContents string `json:"sshKnownHostsContents"`
	EnableHelmOperator    bool   `json:"enableHelmOperator"`
	// HelmOperatorProperties is nil when nothing was said.
	HelmOperatorProperties *HelmOperatorProperties `json:"helmOperatorProperties"`
}

// HelmOperatorProperties are those of Flux v1's Helm operator.
type HelmOperatorProperties struct {
	ChartVersion string `json:"chartVersion"`
	ChartValues  string `json:"chartValues"`
}

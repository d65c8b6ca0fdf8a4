package extension

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"

	"headwater.dev/deploy"
	"headwater.dev/kernel/release"
)

// chartLabel on the stored release names the chart's content.
const chartLabel = "headwater.dev-chart"

// loadChart loads the embedded chart under the agent's version.
func loadChart(version string) (*release.Chart, string, error) {
	files, err := deploy.Chart(deploy.ChartExtension)
	if err != nil {
		return nil, "", err
	}
	chart, err := release.LoadFS(files, ".")
	if err != nil {
		return nil, "", fmt.Errorf("load the extension's chart: %w", err)
	}
	chart.Metadata.Version, chart.Metadata.AppVersion = version, version
	sum := sha256.New()
	fmt.Fprintln(sum, version)
	err = fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := fs.ReadFile(files, name)
		fmt.Fprintln(sum, name, len(content))
		sum.Write(content)
		return err
	})
	if err != nil {
		return nil, "", fmt.Errorf("read the extension's chart: %w", err)
	}
	return chart, hex.EncodeToString(sum.Sum(nil))[:40], nil
}

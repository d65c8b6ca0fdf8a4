// Package client speaks to a hub: a typed client of its Azure Resource Manager
// API with client credentials, retries, pages and long-running operations.
package client

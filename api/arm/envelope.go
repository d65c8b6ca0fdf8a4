package arm

import "time"

// The words of systemData's createdByType and lastModifiedByType.
const (
	ByUser            = "User"
	ByApplication     = "Application"
	ByManagedIdentity = "ManagedIdentity"
	ByKey             = "Key"
)

// SystemData says who made and who last changed a resource. Times are UTC.
type SystemData struct {
	CreatedBy          string     `json:"createdBy,omitempty"`
	CreatedByType      string     `json:"createdByType,omitempty"`
	CreatedAt          *time.Time `json:"createdAt,omitempty"`
	LastModifiedBy     string     `json:"lastModifiedBy,omitempty"`
	LastModifiedByType string     `json:"lastModifiedByType,omitempty"`
	LastModifiedAt     *time.Time `json:"lastModifiedAt,omitempty"`
}

// Created is the systemData of a resource that by made at the time at.
func Created(by, byType string, at time.Time) SystemData {
	at = at.UTC()
	return SystemData{CreatedBy: by, CreatedByType: byType, CreatedAt: &at,
		LastModifiedBy: by, LastModifiedByType: byType, LastModifiedAt: &at}
}

// Modified returns s with the last change set to by and at.
func (s SystemData) Modified(by, byType string, at time.Time) SystemData {
	at = at.UTC()
	s.LastModifiedBy, s.LastModifiedByType, s.LastModifiedAt = by, byType, &at
	return s
}

// Envelope is what every resource looks like from outside. P is the type of
// its properties. Location and Tags exist on tracked resources only.
type Envelope[P any] struct {
	ID         string            `json:"id,omitempty"`
	Name       string            `json:"name,omitempty"`
	Type       string            `json:"type,omitempty"`
	Location   string            `json:"location,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
	Identity   *Identity         `json:"identity,omitempty"`
	Plan       *Plan             `json:"plan,omitempty"`
	Properties P                 `json:"properties"`
	SystemData *SystemData       `json:"systemData,omitempty"`
}

// Identity is a resource's managed identity. PrincipalID and TenantID are the
// server's to set.
type Identity struct {
	Type        string `json:"type,omitempty"`
	PrincipalID string `json:"principalId,omitempty"`
	TenantID    string `json:"tenantId,omitempty"`
}

// Plan is the marketplace plan of an extension; kept and echoed, not acted on.
type Plan struct {
	Name          string `json:"name,omitempty"`
	Publisher     string `json:"publisher,omitempty"`
	Product       string `json:"product,omitempty"`
	PromotionCode string `json:"promotionCode,omitempty"`
	Version       string `json:"version,omitempty"`
}

// Page is one page of a list. NextLink is an absolute URL, empty on the last.
type Page[T any] struct {
	Value    []T    `json:"value"`
	NextLink string `json:"nextLink,omitempty"`
}

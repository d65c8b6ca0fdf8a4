// Package arm is the vocabulary every Azure Resource Manager client speaks:
// resource ids, the resource envelope, error bodies, pages and the documents
// and headers of long-running operations.
//
// Nothing here does I/O. Ids compare without regard to case and keep the
// casing of whoever wrote them; JSON property names are exact.
package arm

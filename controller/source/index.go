package source

type indexCache struct{}

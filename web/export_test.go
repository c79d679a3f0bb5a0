package web

// Contrast and Lighten are what the accent of dark pages follows from.
var (
	Contrast = contrast
	Lighten  = lighten
)

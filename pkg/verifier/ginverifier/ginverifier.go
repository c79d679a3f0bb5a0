// Package ginverifier is package verifier for services that use gin.
//
//	router.Use(ginverifier.Middleware(v))
//	router.GET("/files", ginverifier.RequireScope("read"), files)
package ginverifier

import (
	"github.com/gin-gonic/gin"

	"github.com/workspace-token-service/wts/pkg/verifier"
)

// Middleware lets requests with a good bearer token through, as verifier.Verifier's does.
func Middleware(v *verifier.Verifier) gin.HandlerFunc {
	return func(c *gin.Context) {
		admitted, ok := v.Admit(c.Writer, c.Request)
		if !ok {
			c.Abort()
			return
		}
		c.Request = admitted
		c.Next()
	}
}

// RequireScope lets only tokens through that hold every one of the scopes; it goes behind Middleware.
func RequireScope(names ...string) gin.HandlerFunc {
	return func(c *gin.Context) {
		if !verifier.AdmitScope(c.Writer, c.Request, names...) {
			c.Abort()
		}
	}
}

// Claims are those of the request's token, behind Middleware; nil elsewhere.
func Claims(c *gin.Context) *verifier.Claims {
	claims, _ := verifier.FromContext(c.Request.Context())
	return claims
}

package kubetest

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func (s *Server) discovery(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, map[string]string{"issuer": Issuer, "jwks_uri": "https://somewhere.outside/openid/v1/jwks"})
}

func (s *Server) keys(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	s.calls["keys"]++
	s.mu.Unlock()
	raw, _ := s.key.PublicKey.Bytes() // uncompressed: 4, x, y
	answer(w, http.StatusOK, map[string]any{"keys": []map[string]string{{
		"kty": "EC", "crv": "P-256", "kid": "1", "alg": "ES256", "use": "sig",
		"x": base64.RawURLEncoding.EncodeToString(raw[1:33]), "y": base64.RawURLEncoding.EncodeToString(raw[33:]),
	}}})
}

// Token signs a service-account token as the API server does, bound to a pod; change the claims before
// it is signed.
func (s *Server) Token(pod *corev1.Pod, audience string, change ...func(claims map[string]any)) string {
	claims := map[string]any{
		"iss": Issuer, "aud": []string{audience}, "sub": "system:serviceaccount:" + pod.Namespace + ":" + pod.Spec.ServiceAccountName,
		"iat": time.Now().Unix(), "nbf": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(), "jti": rand.Text(),
		"kubernetes.io": map[string]any{
			"namespace": pod.Namespace, "pod": map[string]string{"name": pod.Name, "uid": string(pod.UID)},
			"serviceaccount": map[string]string{"name": pod.Spec.ServiceAccountName, "uid": "sa-uid"},
		},
	}
	for _, one := range change {
		one(claims)
	}
	encode := func(value any) string {
		text, _ := json.Marshal(value)
		return base64.RawURLEncoding.EncodeToString(text)
	}
	input := encode(map[string]string{"alg": "ES256", "kid": "1"}) + "." + encode(claims)
	digest := sha256.Sum256([]byte(input))
	r, t, err := ecdsa.Sign(rand.Reader, s.key, digest[:])
	if err != nil {
		return ""
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	t.FillBytes(signature[32:])
	return input + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// review answers as the real one does for tokens of Token: the signature, the expiry, the audience.
// Like the real one it goes on accepting a token for a while after its pod is gone.
func (s *Server) review(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.calls["tokenreview"]++
	s.mu.Unlock()
	var review authenticationv1.TokenReview
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
		failure(w, http.StatusBadRequest, metav1.StatusReasonBadRequest)
		return
	}
	review.Status = s.judge(review.Spec.Token, review.Spec.Audiences)
	answer(w, http.StatusCreated, review)
}

func (s *Server) judge(token string, audiences []string) (status authenticationv1.TokenReviewStatus) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return status
	}
	signature, _ := base64.RawURLEncoding.DecodeString(parts[2])
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if len(signature) != 64 || !ecdsa.Verify(&s.key.PublicKey, digest[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])) {
		return status
	}
	payload, _ := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		Audience   []string `json:"aud"`
		Subject    string   `json:"sub"`
		Expires    int64    `json:"exp"`
		Kubernetes struct {
			Pod *struct{ Name, UID string }
		} `json:"kubernetes.io"`
	}
	if json.Unmarshal(payload, &claims) != nil || claims.Expires < time.Now().Unix() {
		return status
	}
	for _, wanted := range audiences {
		for _, has := range claims.Audience {
			if wanted == has {
				status.Audiences = append(status.Audiences, has)
			}
		}
	}
	if len(status.Audiences) == 0 {
		return status
	}
	status.Authenticated = true
	status.User = authenticationv1.UserInfo{Username: claims.Subject, Extra: map[string]authenticationv1.ExtraValue{}}
	if pod := claims.Kubernetes.Pod; pod != nil {
		status.User.Extra["authentication.kubernetes.io/pod-name"] = authenticationv1.ExtraValue{pod.Name}
		status.User.Extra["authentication.kubernetes.io/pod-uid"] = authenticationv1.ExtraValue{pod.UID}
	}
	return status
}

// Verifies a token of wts with the JDK, and Jackson for JSON:
//   java -cp 'jackson/*' Verify.java <issuer> <audience> < token
// It knows ES256, which every audience has unless it is told otherwise, and reads no status list: for minted tokens,
// which live for minutes.

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.math.BigInteger;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.security.AlgorithmParameters;
import java.security.KeyFactory;
import java.security.PublicKey;
import java.security.Signature;
import java.security.spec.ECGenParameterSpec;
import java.security.spec.ECParameterSpec;
import java.security.spec.ECPoint;
import java.security.spec.ECPublicKeySpec;
import java.time.Duration;
import java.time.Instant;
import java.util.Base64;

public class Verify {
    static final ObjectMapper JSON = new ObjectMapper();
    static final HttpClient HTTP = HttpClient.newBuilder().connectTimeout(Duration.ofSeconds(10)).build();

    final String issuer, audience;
    final JsonNode keys; // a service fetches them again every five minutes, and where a kid is not among them

    Verify(String issuer, String audience) throws Exception {
        this.issuer = issuer;
        this.audience = audience;
        keys = fetch(fetch(issuer + "/.well-known/openid-configuration").get("jwks_uri").asText()).get("keys");
    }

    JsonNode verify(String token) throws Exception {
        String[] parts = token.split("\\.", -1);
        require(parts.length == 3, "not a JWT");
        JsonNode header = decode(parts[0]);
        require(header.path("alg").asText().equals("ES256"), "another algorithm");
        require(header.path("typ").asText().equals("at+jwt"), "not an access token");
        require(!header.has("crit"), "an extension that is not known");
        Signature signature = Signature.getInstance("SHA256withECDSAinP1363Format");
        signature.initVerify(key(header.path("kid").asText()));
        signature.update((parts[0] + "." + parts[1]).getBytes(StandardCharsets.US_ASCII));
        require(signature.verify(Base64.getUrlDecoder().decode(parts[2])), "the signature does not hold");
        JsonNode claims = decode(parts[1]);
        require(claims.path("iss").asText().equals(issuer), "another issuer");
        require(claims.path("aud").asText().equals(audience), "another audience");
        require(claims.path("exp").isNumber() && claims.get("exp").asLong() > Instant.now().getEpochSecond(), "expired");
        require(claims.path("iat").asLong() <= Instant.now().getEpochSecond() + 60, "dated in the future");
        require(!claims.has("status"), "a token that can be revoked: ask its status list");
        return claims;
    }

    PublicKey key(String kid) throws Exception {
        for (JsonNode key : keys) {
            if (key.path("kid").asText().equals(kid) && key.path("crv").asText().equals("P-256")) {
                AlgorithmParameters parameters = AlgorithmParameters.getInstance("EC");
                parameters.init(new ECGenParameterSpec("secp256r1"));
                ECPoint point = new ECPoint(number(key, "x"), number(key, "y"));
                return KeyFactory.getInstance("EC").generatePublic(new ECPublicKeySpec(point, parameters.getParameterSpec(ECParameterSpec.class)));
            }
        }
        throw new SecurityException("signed by a key that the issuer does not publish");
    }

    static BigInteger number(JsonNode key, String member) {
        return new BigInteger(1, Base64.getUrlDecoder().decode(key.get(member).asText()));
    }

    static JsonNode decode(String part) throws Exception {
        return JSON.readTree(Base64.getUrlDecoder().decode(part));
    }

    static JsonNode fetch(String address) throws Exception {
        HttpRequest request = HttpRequest.newBuilder(URI.create(address)).timeout(Duration.ofSeconds(10)).build();
        return JSON.readTree(HTTP.send(request, HttpResponse.BodyHandlers.ofByteArray()).body());
    }

    static void require(boolean holds, String otherwise) {
        if (!holds) {
            throw new SecurityException(otherwise);
        }
    }

    public static void main(String[] args) throws Exception {
        try {
            System.out.println(new Verify(args[0], args[1]).verify(new String(System.in.readAllBytes(), StandardCharsets.UTF_8).trim()));
        } catch (SecurityException refusal) {
            System.err.println("refused: " + refusal.getMessage());
            System.exit(1);
        }
    }
}

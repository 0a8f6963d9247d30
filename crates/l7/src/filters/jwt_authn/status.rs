//! How can the verification of a token end? Envoy's statuses, in its order and with its words.

macro_rules! statuses {
    ($($(#[$meta:meta])* $name:ident = $text:literal,)*) => {
        /// The outcome of one verification. The texts are response bodies; the numbers go into metadata.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)] // The text says what each means.
        pub enum Status { $($(#[$meta])* $name,)* }

        impl Status {
            /// Envoy's words.
            pub fn text(self) -> &'static str {
                match self { $(Status::$name => $text,)* }
            }
        }
    };
}

statuses! {
    Ok = "OK",
    Missed = "Jwt is missing",
    NotYetValid = "Jwt not yet valid",
    Expired = "Jwt is expired",
    BadFormat = "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
    HeaderBadBase64 = "Jwt header is an invalid Base64url encoded",
    HeaderBadJson = "Jwt header is an invalid JSON",
    HeaderBadAlg = "Jwt header [alg] field is required and must be a string",
    HeaderNotImplementedAlg = "Jwt header [alg] is not supported",
    HeaderBadKid = "Jwt header [kid] field is not a string",
    PayloadBadBase64 = "Jwt payload is an invalid Base64url encoded",
    PayloadBadJson = "Jwt payload is an invalid JSON",
    IssNotString = "Jwt payload [iss] field is not a string",
    SubNotString = "Jwt payload [sub] field is not a string",
    IatNotInteger = "Jwt payload [iat] field is not an integer",
    IatOutOfRange = "Jwt payload [iat] field is not a positive 64 bit integer",
    NbfNotInteger = "Jwt payload [nbf] field is not an integer",
    NbfOutOfRange = "Jwt payload [nbf] field is not a positive 64 bit integer",
    ExpNotInteger = "Jwt payload [exp] field is not an integer",
    ExpOutOfRange = "Jwt payload [exp] field is not a positive 64 bit integer",
    JtiNotString = "Jwt payload [jti] field is not a string",
    AudNotString = "Jwt payload [aud] field is not a string or string list",
    SignatureBadBase64 = "Jwt signature is an invalid Base64url encoded",
    Ed25519SignatureWrongLength = "Jwt ED25519 signature is wrong length",
    UnknownIssuer = "Jwt issuer is not configured",
    AudienceNotAllowed = "Audiences in Jwt are not allowed",
    VerificationFail = "Jwt verification fails",
    #[allow(dead_code)] // Holds the place of Envoy's number.
    MultipleTokens = "Found multiple Jwt tokens",
    JwksParseError = "Jwks is an invalid JSON",
    JwksNoKeys = "Jwks does not have [keys] field",
    JwksBadKeys = "[keys] in Jwks is not an array",
    JwksNoValidKeys = "Jwks doesn't have any valid public key",
    JwksKidAlgMismatch = "Jwks doesn't have key to match kid or alg from Jwt",
    JwksFetchFail = "Jwks remote fetch is failed",
}

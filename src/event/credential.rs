//! What looks like a credential among parameters that strangers, marketplaces and proxies make up.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use url::{Url, form_urlencoded};

/// Words that make the name they stand in that of a credential, wherever they stand in it.
const TELLING: [&str; 32] = [
    "token",
    "secret",
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "passwort",
    "passwrd",
    "accesscode",
    "authcode",
    "wresult",
    "kennwort",
    "apikey",
    "accesskey",
    "authkey",
    "privatekey",
    "sharedkey",
    "signature",
    "credential",
    "authorization",
    "oauth",
    "bearer",
    "jwt",
    "assertion",
    "hmac",
    "session",
    "sessid",
    "csrf",
    "xsrf",
    "saml",
    "cookie",
    "nonce",
];
/// Words that do so only where they stand alone, as `mac` does in `x-mac`, and not in `machine`.
const TELLING_ALONE: [&str; 22] = [
    "pword", "psw", "pswd", "psk", "pin", "otp", "totp", "pat", "mac", "sas", "sigv", "sigs", "sgn", "signed", "secr",
    "sess", "codes", "creds", "authn", "authz", "digest", "refresh",
];
/// Words that do so at the end of another one as well, as `sig` does in `x-sig`, `urlSig` and `URLSIG`, and not in `signal`.
const TELLING_AT_THE_END: [&str; 12] =
    ["auth", "cred", "key", "keys", "sig", "sign", "pwd", "pw", "pass", "tok", "sid", "ticket"];
/// Words that end so and mean something else.
const HARMLESS: [&str; 17] = [
    "assign", "bypass", "campaign", "compass", "cosign", "design", "donkey", "hockey", "jockey", "monkey", "redesign",
    "resign", "sacred", "tiktok", "turkey", "turnkey", "whiskey",
];
/// Names that are a credential's only as a whole: `editionCode` and `state` of a country are none.
const WHOLE: [&str; 6] = ["code", "authcode", "verifier", "codeverifier", "ticket", "hash"];

/// Whether a parameter is, or looks like, a credential: by its name, whatever case and separators that is written in, or
/// by its value.
///
/// Generous on purpose. What is left out is an odd parameter that nobody asked for; what is kept is on the disk for
/// as long as the event, and everybody sees it who may see events (G11).
pub(super) fn is_credential(name: &str, value: &str) -> bool {
    is_name_of_one(name) || is_token(name) || is_token(value) || holds_one(value)
}

fn is_name_of_one(name: &str) -> bool {
    let words = words(name);
    let joined = words.concat();
    TELLING.iter().any(|telling| joined.contains(telling))
        || words.iter().map(|word| word.trim_end_matches(|c: char| c.is_numeric())).any(|word| {
            TELLING_ALONE.contains(&word)
                || TELLING_AT_THE_END.iter().any(|telling| word.ends_with(telling)) && !HARMLESS.contains(&word)
        })
        || WHOLE.contains(&joined.as_str())
}

/// The words of a name, in lower case: divided by what is no letter or digit, and where a capital follows a small letter.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_small = false;
    for character in name.chars() {
        let begins = character.is_uppercase() && was_small;
        if begins || !character.is_alphanumeric() {
            words.push(String::new());
        }
        if character.is_alphanumeric()
            && let Some(word) = words.last_mut()
        {
            word.extend(character.to_lowercase());
        }
        was_small = character.is_lowercase() || character.is_numeric();
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Whether a value is a signed token, or the value of an `Authorization` header, whatever its name.
fn is_token(value: &str) -> bool {
    let value = value.trim();
    let scheme = value.split_once(' ').map(|(scheme, _)| scheme.to_ascii_lowercase());
    // A JSON object in base64url begins so.
    let is_signed = value.starts_with("eyJ") && value.split('.').count() >= 3;
    is_signed || scheme.is_some_and(|scheme| matches!(scheme.as_str(), "bearer" | "basic" | "oauth" | "digest"))
}

/// Whether a value has a credential in it: as a parameter behind a `;` or the like, or as the user of a URL.
fn holds_one(value: &str) -> bool {
    let decoded: Cow<'_, str> = percent_decode_str(value).decode_utf8_lossy();
    let is_one = |name: &str, value: &str| is_name_of_one(name) || is_token(value);
    [value, &decoded].into_iter().any(|text| {
        let mut parts = text.split([';', '?', '&', '#']).skip(1);
        if parts.any(|part| part.split_once('=').is_some_and(|(name, value)| is_one(name, value))) {
            return true;
        }
        if !text.contains("://") {
            return false;
        }
        let Ok(url) = Url::parse(text) else { return text.contains('@') };
        let mut parameters =
            url.query().into_iter().chain(url.fragment()).flat_map(|part| form_urlencoded::parse(part.as_bytes()));
        url.password().is_some() || !url.username().is_empty() || parameters.any(|(name, value)| is_one(&name, &value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_credential_is_one_however_it_is_written() {
        for name in [
            "token",
            "TOKEN",
            "access_token",
            "access-token",
            "accessToken",
            "AccessToken",
            "x.access.token",
            "csrfToken",
            "api_key",
            "apiKey",
            "APIKEY",
            "apikey",
            "api-key",
            "key",
            "Key",
            "subscription-key",
            "x-functions-key",
            "sig",
            "SIG",
            "x-amz-signature",
            "X-Amz-Credential",
            "signature",
            "urlSig",
            "sv-sig",
            "secret",
            "client_secret",
            "clientSecret",
            "password",
            "user[password]",
            "passwd",
            "pwd",
            "pass",
            "code",
            "auth",
            "x-auth",
            "jwt",
            "id_jwt",
            "oauth_nonce",
            "oauth_anything",
            "sessionid",
            "JSESSIONID",
            "PHPSESSIONID",
            "sid",
            "hmac",
            "client_assertion",
            "otp",
            "hash",
            "bearer",
            "SAMLassertion",
            "token[]",
            "token ",
            "appkey",
            "APPKEY",
            "appkey2",
            "licensekey",
            "subscriptionkey",
            "signkey",
            "hashkey",
            "keys",
            "urlsig",
            "SIGV",
            "SigV4",
            "SAMLResponse",
            "samlresponse",
            "SAMLRequest",
            "creds",
            "cred",
            "usercred",
            "pw",
            "pword",
            "passwort",
            "pat",
            "csrf",
            "_csrf",
            "XSRF",
            "sessid",
            "PHPSESSID",
            "refresh",
            "tok",
            "authz",
            "basicauth",
            "to\u{212a}en",
            "sign",
            "signed",
            "dbpass",
            "userpw",
            "adminpwd",
            "accesscode",
            "authcode2",
            "reftok",
            "mysid",
            "loginticket",
            "licencekeys",
            "wresult",
        ] {
            assert!(is_credential(name, "x"), "{name}");
        }
    }

    #[test]
    fn what_looks_like_none_is_kept() {
        for name in [
            "applicationUuid",
            "ApplicationUUID",
            "lang",
            "x",
            "plan",
            "url",
            "eventUrl",
            "editionCode",
            "countryCode",
            "discount_code",
            "account",
            "accountIdentifier",
            "keyword",
            "monkey",
            "Turkey",
            "sacred",
            "path",
            "pattern",
            "credit",
            "signal",
            "design",
            "author",
            "state",
            "status",
            "partner",
            "compass",
            "campaign",
            "machine",
            "region",
            "pinned",
            "marketplace",
            "",
        ] {
            assert!(!is_credential(name, "06ea7f9d-4a1b-4a00-810f-089ac43972e2"), "{name}");
        }
    }

    #[test]
    fn a_value_that_is_a_token_or_holds_one_is_a_credential_under_any_name() {
        for value in [
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln",
            "Bearer abc",
            "basic dTpw",
            "https://product.example/return?access_token=1",
            "https%3A%2F%2Fproduct.example%2Freturn%3Fsig%3D1",
            "https://user:password@product.example/",
            "https://product.example/#id_token=1",
            "https://product.example/return;jsessionid=1",
            "https%3A%2F%2Fproduct.example%2Freturn%3Bjsessionid%3D1",
            "/return?sig=1",
            "1;token=2",
        ] {
            assert!(is_credential("x", value), "{value}");
        }
        for value in ["https://product.example/return?lang=en", "eyJ", "Basic", "https://product.example/a@b", "a b"] {
            assert!(!is_credential("x", value), "{value}");
        }
    }
}

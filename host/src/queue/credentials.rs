//! Credentials as the API takes them, kept out of logs.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Who signs a request. The token and the certificate never appear in `Debug` output.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// The client's name.
    pub client_id: String,
    /// The secret that requests are signed with.
    pub access_token: String,
    /// For temporary credentials: the certificate, a JSON text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
}

impl Credentials {
    /// Permanent credentials.
    #[must_use]
    pub fn new(client_id: impl Into<String>, access_token: impl Into<String>) -> Self {
        Self {
            client_id: client_id.into(),
            access_token: access_token.into(),
            certificate: None,
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("client_id", &self.client_id)
            .field("temporary", &self.certificate.is_some())
            .finish_non_exhaustive()
    }
}

impl From<taskcluster::Credentials> for Credentials {
    fn from(other: taskcluster::Credentials) -> Self {
        Self {
            client_id: other.client_id,
            access_token: other.access_token,
            certificate: other.certificate,
        }
    }
}

impl From<Credentials> for taskcluster::Credentials {
    fn from(other: Credentials) -> Self {
        Self {
            client_id: other.client_id,
            access_token: other.access_token,
            certificate: other.certificate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_holds_no_secret() {
        let credentials = Credentials {
            certificate: Some("{\"signature\":\"s3cr3t\"}".to_owned()),
            ..Credentials::new("me", "s3cr3t")
        };
        assert_eq!(
            format!("{credentials:?}"),
            "Credentials { client_id: \"me\", temporary: true, .. }"
        );
    }
}

//! PostgreSQL: a batch is one transaction, and has arrived when it is committed. The place of the event is the primary key of
//! the table, so that a copy adds no row. The table is made when it is not there.

use async_trait::async_trait;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_postgres::types::Json;
use tokio_postgres::{Client, Config, NoTls};

use super::{SendError, Sender};
use crate::notify::message::Message;
use crate::notify::settings::TargetSettings;
use crate::outbound::{self, Reach, bare};

pub(super) struct PostgreSql {
    client: Client,
    table: String,
    /// Drives the connection; ends with this.
    _driver: JoinSet<()>,
}

impl PostgreSql {
    pub(super) async fn connect(settings: &TargetSettings, reach: Reach) -> Result<Self, SendError> {
        let (host, port) = settings.hosts[0].clone();
        let mut config = Config::new();
        config.application_name("holdfast").dbname(if settings.path.is_empty() { "postgres" } else { &settings.path });
        config.user(settings.user.as_deref().unwrap_or("postgres"));
        if let Some(password) = &settings.password {
            config.password(password.expose());
        }
        let stream = reach.connect(&host, port).await?;
        let mut driver = JoinSet::new();
        let client = if settings.secure {
            let tls = tokio_postgres_rustls::MakeRustlsConnect::new(outbound::tls(settings.ca.as_deref())?);
            config.ssl_mode(tokio_postgres::config::SslMode::Require);
            let tls = tls_for(tls, bare(&host))?;
            let (client, connection) = config.connect_raw(stream, tls).await.map_err(SendError::failed)?;
            drive(&mut driver, connection);
            client
        } else {
            let (client, connection) = config.connect_raw(stream, NoTls).await.map_err(SendError::failed)?;
            drive(&mut driver, connection);
            client
        };
        let table = quoted(&settings.name);
        let make = format!(
            "CREATE TABLE IF NOT EXISTS {table} (id text PRIMARY KEY, event_time timestamptz NOT NULL, event_name text NOT NULL, \
             object_key text NOT NULL, event jsonb NOT NULL)"
        );
        // Who may only insert must find it made.
        let found = client.query_one("SELECT to_regclass($1)::text", &[&table]).await.map_err(SendError::failed)?;
        if found.get::<_, Option<String>>(0).is_none() {
            client.batch_execute(&make).await.map_err(SendError::failed)?;
        }
        Ok(Self { client, table, _driver: driver })
    }
}

type Tls = tokio_postgres_rustls::MakeRustlsConnect;

fn tls_for(
    mut tls: Tls,
    host: &str,
) -> Result<<Tls as tokio_postgres::tls::MakeTlsConnect<tokio::net::TcpStream>>::TlsConnect, SendError> {
    tokio_postgres::tls::MakeTlsConnect::<tokio::net::TcpStream>::make_tls_connect(&mut tls, host)
        .map_err(SendError::failed)
}

/// Runs a connection until its client is dropped.
fn drive<S, T>(driver: &mut JoinSet<()>, connection: tokio_postgres::Connection<S, T>)
where
    tokio_postgres::Connection<S, T>: Future<Output = Result<(), tokio_postgres::Error>> + Send + 'static,
{
    driver.spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the connection to a database ended");
        }
    });
}

/// `schema.table` or `table` as identifiers.
fn quoted(name: &str) -> String {
    name.splitn(2, '.').map(|part| format!("\"{}\"", part.replace('"', "\"\""))).collect::<Vec<_>>().join(".")
}

/// Neither text nor JSON of PostgreSQL can hold a zero byte; an object's key can. It becomes the picture of one.
fn without_zero(text: &str) -> String {
    text.replace('\0', "\u{2400}")
}

fn storable(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(without_zero(&text)),
        Value::Array(items) => items.into_iter().map(storable).collect(),
        Value::Object(fields) => {
            fields.into_iter().map(|(name, value)| (without_zero(&name), storable(value))).collect()
        }
        other => other,
    }
}

#[async_trait]
impl Sender for PostgreSql {
    async fn send(&mut self, messages: &[Message]) -> Result<(), SendError> {
        let insert = format!(
            "INSERT INTO {} (id, event_time, event_name, object_key, event) \
             SELECT * FROM unnest($1::text[], $2::text[]::timestamptz[], $3::text[], $4::text[], $5::jsonb[]) ON CONFLICT (id) DO NOTHING",
            self.table
        );
        let ids: Vec<&str> = messages.iter().map(|message| message.unique.as_str()).collect();
        let times: Vec<&str> = messages.iter().map(|message| message.time.as_str()).collect();
        let names: Vec<&str> = messages.iter().map(|message| message.name).collect();
        let keys: Vec<String> = messages.iter().map(|message| without_zero(&message.key)).collect();
        let mut events = Vec::new();
        for message in messages {
            let value: Value = serde_json::from_slice(&message.body).map_err(SendError::failed)?;
            events.push(Json(storable(value)));
        }
        let inserted = self.client.execute(&insert, &[&ids, &times, &names, &keys, &events]).await;
        match inserted {
            Ok(_) => Ok(()),
            // Data that no attempt will make right: class 22. Source: PostgreSQL, Appendix A.
            Err(error) if error.code().is_some_and(|code| code.code().starts_with("22")) => {
                Err(SendError::Refused(crate::backend::chain(&error)))
            }
            Err(error) => Err(SendError::failed(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{quoted, storable};

    #[test]
    fn a_zero_byte_stops_no_event() {
        let value = json!({ "a\0": ["b\0c", 1, null], "d": { "e": "\0" } });
        assert!(!storable(value).to_string().contains("u0000"));
    }

    #[test]
    fn names_of_tables_are_quoted() {
        assert_eq!(quoted("events"), "\"events\"");
        assert_eq!(quoted("audit.events"), "\"audit\".\"events\"");
        assert_eq!(quoted("a\"; DROP TABLE b; --"), "\"a\"\"; DROP TABLE b; --\"");
    }
}

//! The notification configuration of a bucket: which events go to which target.
//!
//! Targets are named by ARN, `arn:holdfast:sqs:<region>:<target>:<kind>`; MinIO's `arn:minio:sqs:...` is read, too, so that
//! its scripts work. Source: S3 API, PutBucketNotificationConfiguration; S3 user guide, "Amazon S3 Event Notifications".

use holdfast_core::event::{EventKind, EventRow};
use s3s::dto::{NotificationConfiguration, QueueConfiguration};
use s3s::xml;

use crate::feed::Filter;

/// Rules of one bucket at most.
pub const RULES_MAX: usize = 100;

/// Why a configuration is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    /// Code `MalformedXML`.
    #[error("the XML you provided was not well-formed or did not validate against our published schema")]
    Malformed,
    /// Code `InvalidArgument`.
    #[error("{0}")]
    Invalid(String),
    /// Code `NotImplemented`.
    #[error("{0} is not built")]
    NotBuilt(&'static str),
}

/// The validated configuration of a bucket.
#[derive(Clone, Debug)]
pub struct Rules {
    configuration: NotificationConfiguration,
    rules: Vec<Rule>,
}

/// One rule.
#[derive(Clone, Debug)]
struct Rule {
    id: String,
    target: String,
    kind: String,
    filter: Filter,
}

impl Rules {
    /// Reads a stored document.
    ///
    /// # Errors
    /// [`RulesError`].
    pub fn parse(document: &[u8]) -> Result<Self, RulesError> {
        let mut reader = xml::Deserializer::new(document);
        let parsed = <NotificationConfiguration as xml::Deserialize>::deserialize(&mut reader);
        let parsed = parsed.map_err(|_| RulesError::Malformed)?;
        reader.expect_eof().map_err(|_| RulesError::Malformed)?;
        Self::new(parsed)
    }

    /// Validates what s3s has parsed. A rule without an id gets its place as one.
    ///
    /// # Errors
    /// [`RulesError`].
    pub fn new(mut configuration: NotificationConfiguration) -> Result<Self, RulesError> {
        let any = |list: Option<usize>| list.is_some_and(|count| count > 0);
        if any(configuration.topic_configurations.as_ref().map(Vec::len)) {
            return Err(RulesError::NotBuilt("TopicConfiguration (name a target by QueueConfiguration)"));
        }
        if any(configuration.lambda_function_configurations.as_ref().map(Vec::len)) {
            return Err(RulesError::NotBuilt("CloudFunctionConfiguration"));
        }
        if configuration.event_bridge_configuration.is_some() {
            return Err(RulesError::NotBuilt("EventBridgeConfiguration (a target may have format=eventbridge)"));
        }
        let queues = configuration.queue_configurations.get_or_insert_default();
        if queues.len() > RULES_MAX {
            return Err(RulesError::Invalid(format!("a bucket has at most {RULES_MAX} rules")));
        }
        for (number, queue) in queues.iter_mut().enumerate() {
            queue.id.get_or_insert_with(|| format!("rule-{}", number + 1));
        }
        let rules = queues.iter().map(rule).collect::<Result<Vec<Rule>, RulesError>>()?;
        for (number, rule) in rules.iter().enumerate() {
            if rules[..number].iter().any(|other| other.id == rule.id) {
                return Err(RulesError::Invalid(format!("two rules have the id {}", rule.id)));
            }
        }
        Ok(Self { configuration, rules })
    }

    /// Whether there is no rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The targets that are named, with the kind that the ARN says; empty where it says none.
    pub fn targets(&self) -> impl Iterator<Item = (&str, &str)> {
        self.rules.iter().map(|rule| (rule.target.as_str(), rule.kind.as_str()))
    }

    /// The id of the first rule by which an event goes to a target.
    #[must_use]
    pub fn rule_for(&self, target: &str, event: &EventRow) -> Option<&str> {
        let mut of_target = self.rules.iter().filter(|rule| rule.target == target);
        of_target.find(|rule| rule.filter.wants(event)).map(|rule| rule.id.as_str())
    }

    /// The document to store.
    #[must_use]
    pub fn to_xml(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = xml::Serializer::new(&mut out);
        xml::Serialize::serialize(&self.configuration, &mut writer).expect("writing to memory does not fail");
        out
    }

    /// The configuration, for GetBucketNotificationConfiguration.
    #[must_use]
    pub fn into_configuration(self) -> NotificationConfiguration {
        self.configuration
    }
}

fn rule(queue: &QueueConfiguration) -> Result<Rule, RulesError> {
    let id = queue.id.clone().unwrap_or_default();
    if id.len() > 255 {
        return Err(RulesError::Invalid("an id has at most 255 characters".into()));
    }
    let (target, kind) = arn(&queue.queue_arn)?;
    if queue.events.is_empty() {
        return Err(RulesError::Malformed);
    }
    let names: Vec<String> = queue.events.iter().map(|event| String::from(event.clone())).collect();
    for name in &names {
        if !EventKind::is_known(name) {
            return Err(RulesError::Invalid(format!("the event {name} is never reported here")));
        }
    }
    let mut filter = Filter { names, ..Filter::default() };
    let key_filter = queue.filter.as_ref().and_then(|filter| filter.key.as_ref());
    let (mut prefixes, mut suffixes) = (0, 0);
    for part in key_filter.and_then(|key| key.filter_rules.as_ref()).into_iter().flatten() {
        let name = part.name.as_ref().map(|name| name.as_str().to_ascii_lowercase());
        let value = part.value.clone().unwrap_or_default();
        if value.len() > 1024 {
            return Err(RulesError::Invalid("filter rule value cannot exceed 1024 characters".into()));
        }
        match name.as_deref() {
            Some("prefix") => (filter.prefix, prefixes) = (value, prefixes + 1),
            Some("suffix") => (filter.suffix, suffixes) = (value, suffixes + 1),
            _ => return Err(RulesError::Invalid("filter rule name must be either prefix or suffix".into())),
        }
    }
    if prefixes > 1 || suffixes > 1 {
        return Err(RulesError::Invalid("Cannot specify more than one prefix or suffix rule in a filter.".into()));
    }
    Ok(Rule { id, target, kind, filter })
}

/// The target and kind that an ARN names.
fn arn(text: &str) -> Result<(String, String), RulesError> {
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    match parts.as_slice() {
        ["arn", "holdfast" | "minio", "sqs", _, target, kind] if !target.is_empty() => {
            Ok(((*target).to_owned(), (*kind).to_owned()))
        }
        _ => Err(RulesError::Invalid(format!(
            "the ARN {text} names no target: it has the form arn:holdfast:sqs:<region>:<target>:<kind>"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: EventKind, key: &str) -> EventRow {
        EventRow { bucket: Some("abc".parse().unwrap()), key: Some(key.into()), ..EventRow::new(kind) }
    }

    fn rules(body: &str) -> Result<Rules, RulesError> {
        Rules::parse(format!("<NotificationConfiguration>{body}</NotificationConfiguration>").as_bytes())
    }

    const FILTERED: &str = "<QueueConfiguration><Id>jpg</Id><Queue>arn:minio:sqs::audit:webhook</Queue>\
        <Event>s3:ObjectCreated:*</Event><Event>s3:ObjectRemoved:Delete</Event><Filter><S3Key><FilterRule><Name>prefix</Name>\
        <Value>in/</Value></FilterRule><FilterRule><Name>suffix</Name><Value>.jpg</Value></FilterRule></S3Key></Filter></QueueConfiguration>";

    #[test]
    fn an_event_goes_where_a_rule_says() {
        let rules = rules(FILTERED).unwrap();
        let goes = |target, kind, key| rules.rule_for(target, &event(kind, key)).map(str::to_owned);
        assert_eq!(goes("audit", EventKind::Put, "in/a.jpg"), Some("jpg".into()));
        assert_eq!(goes("audit", EventKind::Delete, "in/a.jpg"), Some("jpg".into()));
        assert_eq!(goes("other", EventKind::Put, "in/a.jpg"), None);
        assert_eq!(goes("audit", EventKind::Marker, "in/a.jpg"), None);
        assert_eq!(goes("audit", EventKind::Put, "out/a.jpg"), None);
        assert_eq!(goes("audit", EventKind::Put, "in/a.png"), None);
        assert_eq!(rules.targets().collect::<Vec<_>>(), [("audit", "webhook")]);
        // What is stored is what was given.
        let again = Rules::parse(&rules.to_xml()).unwrap();
        assert_eq!(again.rule_for("audit", &event(EventKind::Put, "in/a.jpg")), Some("jpg"));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert!(rules("").unwrap().is_empty());
        let queue = |arn: &str, event: &str, more: &str| {
            rules(&format!("<QueueConfiguration><Queue>{arn}</Queue><Event>{event}</Event>{more}</QueueConfiguration>"))
        };
        let good = "arn:holdfast:sqs:us-east-1:audit:webhook";
        assert!(queue(good, "s3:ObjectCreated:Put", "").is_ok());
        assert!(matches!(queue("arn:aws:sqs:x:1:q", "s3:ObjectCreated:Put", ""), Err(RulesError::Invalid(_))));
        assert!(matches!(queue("audit", "s3:ObjectCreated:Put", ""), Err(RulesError::Invalid(_))));
        assert!(matches!(queue(good, "s3:ObjectAccessed:Get", ""), Err(RulesError::Invalid(_))));
        let twice = "<Filter><S3Key><FilterRule><Name>prefix</Name><Value>a</Value></FilterRule>\
            <FilterRule><Name>Prefix</Name><Value>b</Value></FilterRule></S3Key></Filter>";
        assert!(matches!(queue(good, "s3:ObjectCreated:Put", twice), Err(RulesError::Invalid(_))));
        assert!(matches!(rules(&format!("{FILTERED}{FILTERED}")), Err(RulesError::Invalid(_))));
        assert!(matches!(rules("<EventBridgeConfiguration/>"), Err(RulesError::NotBuilt(_))));
        let topic = "<TopicConfiguration><Topic>arn:aws:sns:x:1:t</Topic><Event>s3:ObjectCreated:Put</Event></TopicConfiguration>";
        assert!(matches!(rules(topic), Err(RulesError::NotBuilt(_))));
    }
}

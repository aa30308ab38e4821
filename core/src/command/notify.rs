//! Commands of targets: where events go.

use minicbor::{Decode, Encode};

use crate::id::{Place, Revision};

/// See [`super::Op::SetTarget`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SetTarget {
    /// The target.
    #[n(0)]
    pub name: String,
    /// Its settings, as the gateway wrote them: opaque here, secrets sealed.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub settings: Vec<u8>,
}

/// See [`super::Op::RemoveTarget`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct RemoveTarget {
    /// The target.
    #[n(0)]
    pub name: String,
}

/// See [`super::Op::AdvanceTarget`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct AdvanceTarget {
    /// The target.
    #[n(0)]
    pub name: String,
    /// Its id: another of the same name is not meant.
    #[n(1)]
    pub id: Revision,
    /// Where its cursor must be: whoever delivered from elsewhere has been overtaken.
    #[n(2)]
    pub from: Place,
    /// Where it goes.
    #[n(3)]
    pub to: Place,
    /// Events that were delivered between.
    #[n(4)]
    pub delivered: u64,
    /// Events that were put under the dead-letter prefix instead.
    #[n(5)]
    pub dead_lettered: u64,
    /// Gaps in which events were lost: given up without a dead-letter prefix, or compacted before they were delivered.
    #[n(6)]
    pub lost: u64,
    /// Why it stands still now.
    #[n(7)]
    pub problem: Option<String>,
}

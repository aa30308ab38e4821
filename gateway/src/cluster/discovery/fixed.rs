//! Addresses as the operator wrote them. Names among them are resolved at each connect, so they may move.

use std::collections::BTreeSet;

use super::BoardOf;

pub(super) fn run(addresses: BTreeSet<String>, board: &BoardOf) {
    board.put(addresses);
}

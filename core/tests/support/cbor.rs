//! CBOR as a tree, so that tests can spoil stored bytes in one place and leave the rest as it is.

use minicbor::data::Type;
use minicbor::{Decoder, Encoder};

#[derive(Clone, Debug, PartialEq)]
pub enum Tree {
    Number(u64),
    Bytes(Vec<u8>),
    Text(String),
    Bool(bool),
    Null,
    Array(Vec<Tree>),
    Map(Vec<(Tree, Tree)>),
}

impl Tree {
    pub fn parse(bytes: &[u8]) -> Self {
        let mut decoder = Decoder::new(bytes);
        let tree = Self::read(&mut decoder);
        assert_eq!(decoder.position(), bytes.len(), "nothing follows the record");
        tree
    }

    fn read(d: &mut Decoder<'_>) -> Self {
        match d.datatype().unwrap() {
            Type::U8 | Type::U16 | Type::U32 | Type::U64 => Self::Number(d.u64().unwrap()),
            Type::Bytes => Self::Bytes(d.bytes().unwrap().to_vec()),
            Type::String => Self::Text(d.str().unwrap().to_owned()),
            Type::Bool => Self::Bool(d.bool().unwrap()),
            Type::Null => {
                d.null().unwrap();
                Self::Null
            }
            Type::Array => {
                let length = d.array().unwrap().unwrap();
                Self::Array((0..length).map(|_| Self::read(d)).collect())
            }
            Type::Map => {
                let length = d.map().unwrap().unwrap();
                Self::Map((0..length).map(|_| (Self::read(d), Self::read(d))).collect())
            }
            kind => panic!("{kind} is not part of the formats"),
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::new(Vec::new());
        self.write(&mut e);
        e.into_writer()
    }

    fn write(&self, e: &mut Encoder<Vec<u8>>) {
        match self {
            Self::Number(number) => e.u64(*number).map(drop),
            Self::Bytes(bytes) => e.bytes(bytes).map(drop),
            Self::Text(text) => e.str(text).map(drop),
            Self::Bool(bool) => e.bool(*bool).map(drop),
            Self::Null => e.null().map(drop),
            Self::Array(items) => {
                e.array(items.len() as u64).unwrap();
                items.iter().for_each(|item| item.write(e));
                Ok(())
            }
            Self::Map(fields) => {
                e.map(fields.len() as u64).unwrap();
                for (key, value) in fields {
                    key.write(e);
                    value.write(e);
                }
                Ok(())
            }
        }
        .unwrap();
    }

    /// What is at the end of a path: field numbers of maps, positions in arrays.
    pub fn at(&mut self, path: &[u64]) -> &mut Self {
        let Some((step, rest)) = path.split_first() else { return self };
        let next = match self {
            Self::Map(fields) => fields.iter_mut().find(|(key, _)| *key == Self::Number(*step)).map(|(_, value)| value),
            Self::Array(items) => items.get_mut(*step as usize),
            _ => None,
        };
        next.unwrap_or_else(|| panic!("nothing at {step}")).at(rest)
    }

    /// Every node, parents last: what a visit adds is not visited.
    pub fn visit(&mut self, visit: &mut impl FnMut(&mut Self)) {
        match self {
            Self::Array(items) => items.iter_mut().for_each(|item| item.visit(visit)),
            Self::Map(fields) => fields.iter_mut().for_each(|(_, value)| value.visit(visit)),
            _ => {}
        }
        visit(self);
    }
}

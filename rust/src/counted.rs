//! Lists and maps that know their own size, so that checking what holds them (checked.rs) does not walk them again: a
//! template that collects messages one by one checks its list at every step.

use std::collections::HashMap;
use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr};
use minijinja::Value;
use serde_json::Value as Json;

/// How many values a value holds, counted as often as they are reachable, and how deeply they are nested.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub nodes: usize,
    pub height: usize,
}

impl Size {
    pub const LEAF: Size = Size { nodes: 1, height: 0 };

    /// Counts `part` as held by this value.
    pub fn hold(&mut self, part: Size) {
        self.nodes = self.nodes.saturating_add(part.nodes);
        self.height = self.height.max(part.height + 1);
    }
}

#[derive(Debug)]
pub struct List {
    pub items: Vec<Value>,
    pub size: Size,
}

#[derive(Debug)]
pub struct Dict {
    pairs: Vec<(Value, Value)>,
    index: HashMap<String, usize>,
    size: Size,
}

impl Object for List {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.items.get(key.as_usize()?).cloned()
    }
    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.items.len())
    }
}

impl Object for Dict {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }
    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        Some(self.pairs[*self.index.get(key)?].1.clone())
    }
    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.pairs.iter().map(|(key, _)| key.clone()).collect())
    }
    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.pairs.len())
    }
}

/// The size of a value that knows it.
pub fn known(value: &Value) -> Option<Size> {
    if let Some(list) = value.downcast_object_ref::<List>() {
        return Some(list.size);
    }
    value.downcast_object_ref::<Dict>().map(|dict| dict.size)
}

/// A JSON value (from a parser that limits its depth) as the template sees it.
pub fn from_json(json: Json) -> (Value, Size) {
    let mut size = Size::LEAF;
    let value = match json {
        Json::Null => Value::from(()),
        Json::Bool(b) => Value::from(b),
        Json::String(s) => Value::from(s),
        Json::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(i), _) => Value::from(i),
            (_, Some(u)) => Value::from(u),
            _ => Value::from(n.as_f64().unwrap_or(f64::NAN)),
        },
        Json::Array(items) => {
            let mut hold = |item| {
                let (item, part) = from_json(item);
                size.hold(part);
                item
            };
            let items: Vec<Value> = items.into_iter().map(&mut hold).collect();
            Value::from_object(List { items, size })
        }
        Json::Object(map) => {
            let (mut pairs, mut index) = (Vec::with_capacity(map.len()), HashMap::with_capacity(map.len()));
            for (key, item) in map {
                let (item, part) = from_json(item);
                size.hold(Size::LEAF);
                size.hold(part);
                pairs.push((Value::from(key.as_str()), item));
                index.insert(key, pairs.len() - 1);
            }
            Value::from_object(Dict { pairs, index, size })
        }
    };
    (value, size)
}

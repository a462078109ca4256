//! What a database holds: keys in their order, each with its value and the time of its expiry.

pub type Bytes = Vec<u8>;

/// A value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Kind {
    Text(Bytes),
    /// In the order of the fields.
    Hash(Vec<(Bytes, Bytes)>),
    /// In order.
    Set(Vec<Bytes>),
    /// Stands for every type whose content nobody here looks at: so many items.
    List(usize),
}

impl Kind {
    pub fn name(&self) -> &'static str {
        match self {
            Kind::Text(_) => "string",
            Kind::Hash(_) => "hash",
            Kind::Set(_) => "set",
            Kind::List(_) => "list",
        }
    }
}

/// A key's value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    pub kind: Kind,
    /// Milliseconds since the epoch. The key is gone once the time is later than this.
    pub expires_ms: Option<i64>,
}

/// One database: its keys in order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Keys(Vec<(Bytes, Entry)>);

impl Keys {
    fn place(&self, key: &[u8]) -> Result<usize, usize> {
        self.0.binary_search_by(|(name, _)| name.as_slice().cmp(key))
    }

    pub fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.place(key).ok().map(|at| &self.0[at].1)
    }

    pub fn get_mut(&mut self, key: &[u8]) -> Option<&mut Entry> {
        self.place(key).ok().map(|at| &mut self.0[at].1)
    }

    pub fn put(&mut self, key: &[u8], entry: Entry) {
        match self.place(key) {
            Ok(at) => self.0[at].1 = entry,
            Err(at) => self.0.insert(at, (key.to_vec(), entry)),
        }
    }

    pub fn remove(&mut self, key: &[u8]) -> Option<Entry> {
        self.place(key).ok().map(|at| self.0.remove(at).1)
    }

    pub fn iter(&self) -> impl Iterator<Item = &(Bytes, Entry)> {
        self.0.iter()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The value of a field.
pub fn field<'a>(fields: &'a [(Bytes, Bytes)], name: &[u8]) -> Option<&'a Bytes> {
    fields.binary_search_by(|(field, _)| field.as_slice().cmp(name)).ok().map(|at| &fields[at].1)
}

/// Sets a field; whether it is new.
pub fn set_field(fields: &mut Vec<(Bytes, Bytes)>, name: &[u8], value: &[u8]) -> bool {
    match fields.binary_search_by(|(field, _)| field.as_slice().cmp(name)) {
        Ok(at) => {
            fields[at].1 = value.to_vec();
            false
        }
        Err(at) => {
            fields.insert(at, (name.to_vec(), value.to_vec()));
            true
        }
    }
}

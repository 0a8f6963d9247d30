//! What fields does a message have? A read-only view of the compact schema table made by `build.rs`.
//!
//! One binary blob in the executable: no relocations, no heap, pages are touched only when asked for. A descriptor pool
//! of the same 532 files costs tens of milliseconds and megabytes per process.
//!
//! Layout, little-endian `u32` words: six section offsets (messages, fields, enums, values, strings, end);
//! message = name, first field, field count (sorted by name); field = name, JSON name, number, kind, type reference;
//! enum = name, first value, count; value = number, name; string = length byte and UTF-8.

static BLOB: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/schema.bin"));

fn word(at: usize) -> u32 {
    u32::from_le_bytes(BLOB[at..at + 4].try_into().expect("four bytes"))
}

fn section(i: usize) -> usize {
    word(4 * i) as usize
}

fn string(offset: u32) -> &'static str {
    let at = section(4) + offset as usize;
    let len = BLOB[at] as usize;
    std::str::from_utf8(&BLOB[at + 1..at + 1 + len]).expect("build.rs wrote UTF-8")
}

/// A protobuf message type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MessageType(u16);

/// A protobuf enum type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EnumType(u16);

/// One field of a message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Field(u32);

/// The scalar or composite kind of a field's value.
#[allow(missing_docs)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Double,
    Float,
    Int64,
    Uint64,
    Int32,
    Fixed64,
    Fixed32,
    Bool,
    String,
    Message(MessageType),
    Bytes,
    Uint32,
    Enum(EnumType),
    Sfixed32,
    Sfixed64,
    Sint32,
    Sint64,
}

impl MessageType {
    /// Finds a message by full name, such as `envoy.config.cluster.v3.Cluster`.
    pub fn find(full_name: &str) -> Option<Self> {
        let (mut low, mut high) = (0, (section(1) - section(0)) / 12);
        while low < high {
            let mid = (low + high) / 2;
            let candidate = Self(mid as u16);
            match candidate.full_name().cmp(full_name) {
                std::cmp::Ordering::Equal => return Some(candidate),
                std::cmp::Ordering::Less => low = mid + 1,
                std::cmp::Ordering::Greater => high = mid,
            }
        }
        None
    }

    fn at(self) -> usize {
        section(0) + 12 * self.0 as usize
    }

    /// The full name, without a leading dot.
    pub fn full_name(self) -> &'static str {
        string(word(self.at()))
    }

    /// The fields in order of declaration.
    pub fn fields(self) -> impl Iterator<Item = Field> {
        let first = word(self.at() + 4);
        (first..first + word(self.at() + 8)).map(Field)
    }

    /// The field of that number.
    pub fn field_by_number(self, number: u32) -> Option<Field> {
        self.fields().find(|f| f.number() == number)
    }

    /// The field of that proto (snake case) or JSON (camel case) name.
    pub fn field_by_name(self, name: &str) -> Option<Field> {
        self.fields().find(|f| f.name() == name || f.json_name() == name)
    }
}

impl Field {
    fn at(self) -> usize {
        section(1) + 20 * self.0 as usize
    }

    /// Name as in the .proto file.
    pub fn name(self) -> &'static str {
        string(word(self.at()))
    }

    /// Name as in canonical JSON.
    pub fn json_name(self) -> &'static str {
        string(word(self.at() + 4))
    }

    /// Field number.
    pub fn number(self) -> u32 {
        word(self.at() + 8)
    }

    /// Whether the field is a list or a map.
    pub fn is_repeated(self) -> bool {
        word(self.at() + 12) & 1 << 8 != 0
    }

    /// Whether the field is a map; its kind is then the entry message with fields 1 (key) and 2 (value).
    pub fn is_map(self) -> bool {
        word(self.at() + 12) & 1 << 9 != 0
    }

    /// Whether a list of scalars is written one value a tag.
    pub fn is_unpacked(self) -> bool {
        word(self.at() + 12) & 1 << 10 != 0
    }

    /// Whether the field is a scalar whose default value means "not set" and is never written.
    pub fn is_implicit(self) -> bool {
        word(self.at() + 12) & (1 << 11) != 0
    }

    /// The oneof the field belongs to, numbered from zero within its message.
    pub fn oneof(self) -> Option<u16> {
        ((word(self.at() + 16) >> 16) as u16).checked_sub(1)
    }

    /// What the field holds.
    pub fn kind(self) -> Kind {
        let reference = word(self.at() + 16) as u16;
        match word(self.at() + 12) & 0xff {
            1 => Kind::Double,
            2 => Kind::Float,
            3 => Kind::Int64,
            4 => Kind::Uint64,
            5 => Kind::Int32,
            6 => Kind::Fixed64,
            7 => Kind::Fixed32,
            8 => Kind::Bool,
            9 => Kind::String,
            10 | 11 => Kind::Message(MessageType(reference)),
            12 => Kind::Bytes,
            13 => Kind::Uint32,
            14 => Kind::Enum(EnumType(reference)),
            15 => Kind::Sfixed32,
            16 => Kind::Sfixed64,
            17 => Kind::Sint32,
            _ => Kind::Sint64,
        }
    }
}

impl EnumType {
    fn at(self) -> usize {
        section(2) + 12 * self.0 as usize
    }

    /// The full name, without a leading dot.
    pub fn full_name(self) -> &'static str {
        string(word(self.at()))
    }

    /// Numbers and names in order of declaration.
    pub fn values(self) -> impl Iterator<Item = (i32, &'static str)> {
        let first = word(self.at() + 4);
        (first..first + word(self.at() + 8)).map(|i| {
            let at = section(3) + 8 * i as usize;
            (word(at) as i32, string(word(at + 4)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_messages_and_their_fields() {
        let cluster = MessageType::find("envoy.config.cluster.v3.Cluster").expect("Envoy's cluster");
        let lb = cluster.field_by_name("lbPolicy").expect("by JSON name");
        assert_eq!((lb.name(), lb.number()), ("lb_policy", 6));
        let Kind::Enum(e) = lb.kind() else { panic!("an enum") };
        assert_eq!(e.full_name(), "envoy.config.cluster.v3.Cluster.LbPolicy");
        assert!(e.values().any(|v| v == (5, "MAGLEV")));
        let tepo = cluster.field_by_name("typed_extension_protocol_options").expect("a map");
        assert!(tepo.is_map() && tepo.is_repeated());
        assert_eq!(
            cluster.field_by_name("type").unwrap().oneof(),
            cluster.field_by_name("cluster_type").unwrap().oneof()
        );
        assert!(MessageType::find("envoy.config.cluster.v3.Clusterr").is_none());
    }
}

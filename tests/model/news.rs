//! What a worker is told of its pair, in a few bytes: the shipped [`News`] of the values that occur in the model.

use keepstep::pipeline::hint::News;
use keepstep::plan::Removal;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Event {
    #[default]
    None,
    Set,
    Del,
    Expired,
    Evicted,
}

impl Event {
    pub fn name(self) -> Option<&'static str> {
        match self {
            Event::None => None,
            Event::Set => Some("set"),
            Event::Del => Some("del"),
            Event::Expired => Some("expired"),
            Event::Evicted => Some("evicted"),
        }
    }

    pub fn removal(self) -> Option<Removal> {
        self.name().and_then(keepstep::store::removal_of)
    }

    fn of(name: Option<&str>) -> Event {
        let all = [Event::Set, Event::Del, Event::Expired, Event::Evicted];
        name.map_or(Event::None, |name| all.into_iter().find(|event| event.name() == Some(name)).unwrap())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Hint {
    pub on: bool,
    pub znode: bool,
    /// `u8::MAX`: the server does not tell.
    pub zxid: u8,
    pub key: bool,
    pub slow: bool,
    pub event: Event,
    pub waited: bool,
    pub approved: bool,
    /// A comparison waits until the pair is settled.
    pub owed: bool,
}

impl Hint {
    pub fn merge(&mut self, newer: Hint) {
        let on = self.on || newer.on;
        let mut news = self.news();
        news.merge(newer.news());
        *self = Hint { on, ..Hint::of(news) };
    }

    /// What the shipped machine is told; which changes are still unwritten is not modelled.
    pub fn news(self) -> News {
        News {
            znode: self.znode,
            zxid: if self.zxid == u8::MAX { i64::MAX } else { i64::from(self.zxid) },
            key: self.key,
            event: self.event.name(),
            removal: self.event.removal(),
            slow: self.slow,
            waited: self.waited,
            approved: self.approved,
            owed: self.owed,
            ..News::default()
        }
    }

    pub fn of(news: News) -> Hint {
        Hint {
            on: true,
            znode: news.znode,
            zxid: if news.zxid == i64::MAX { u8::MAX } else { u8::try_from(news.zxid).unwrap() },
            key: news.key,
            slow: news.slow,
            event: Event::of(news.event),
            waited: news.waited,
            approved: news.approved,
            owed: news.owed,
        }
    }
}

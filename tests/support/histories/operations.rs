//! What people, power and disks do to servers, databases and configurations: one function an operation, each of them drawn
//! by name. An operation that does not apply changes nothing.

use std::rc::Rc;

use super::database::Content;
use super::world::{FeedKey, World};

/// Whether an operation applied.
type Applied = bool;

/// One kind of operation.
#[derive(Clone, Copy)]
pub(super) struct Operation {
    pub name: &'static str,
    /// How often it is drawn, relative to the others.
    pub weight: f64,
    pub perform: fn(&mut World) -> Applied,
}

/// Every operation, in the order in which a history draws from them.
pub(super) const ALL: &[Operation] = &[
    operation("address_dies", 1.0, World::address_dies),
    operation("backup", 1.0, World::backup),
    operation("backup_server", 1.0, World::backup_server),
    operation("bridge_restart", 3.0, World::bridge_restart),
    operation("burst", 2.0, World::burst),
    operation("clock", 1.0, World::clock),
    operation("copy_server", 1.0, World::copy_server),
    operation("correct_row", 1.0, World::correct_row),
    operation("delete_skill", 1.0, World::delete_skill),
    operation("drop_address", 1.0, World::drop_address),
    operation("filter", 1.0, World::filter),
    operation("filtered_beside", 1.0, World::filtered_beside),
    operation("long_outage", 1.0, World::long_outage),
    operation("name_down", 1.0, World::name_down),
    operation("name_feed", 1.0, World::name_feed),
    operation("new_database", 1.5, World::replace_database),
    operation("new_server", 1.0, World::server_joins),
    operation("new_server_two", 1.0, World::server_joins_twice),
    operation("other_file_and_back", 1.0, World::other_file_and_back),
    operation("power_cut", 1.5, World::power_cut),
    operation("power_cut_both", 1.0, World::power_cut_both),
    operation("quiet", 2.0, World::quiet),
    operation("remove_and_add", 1.0, World::remove_and_add),
    operation("rename_skill", 1.0, World::rename_skill),
    operation("respell", 1.0, World::respell),
    operation("respell_down", 1.0, World::respell_down),
    operation("restore", 1.0, World::restore),
    operation("restore_and_back", 1.0, World::restore_and_back),
    operation("second_address", 1.0, World::second_address),
    operation("second_process", 1.0, World::second_process),
    operation("server_leaves", 1.0, World::server_leaves),
    operation("server_restart", 3.0, World::server_restart),
    operation("shuffle", 1.0, World::shuffle),
];

const fn operation(name: &'static str, weight: f64, perform: fn(&mut World) -> Applied) -> Operation {
    Operation { name, weight, perform }
}

/// Operations that change the configuration, or nothing but who reaches whom.
pub(super) const OF_CONFIGURATION: &[&str] = &[
    "address_dies",
    "bridge_restart",
    "burst",
    "clock",
    "drop_address",
    "filter",
    "filtered_beside",
    "name_down",
    "name_feed",
    "new_server",
    "new_server_two",
    "quiet",
    "remove_and_add",
    "respell",
    "respell_down",
    "second_address",
    "second_process",
    "server_leaves",
    "server_restart",
    "shuffle",
];

/// Operations that change what is in a database.
pub(super) const OF_MAINTENANCE: &[&str] = &[
    "backup",
    "bridge_restart",
    "burst",
    "correct_row",
    "delete_skill",
    "long_outage",
    "new_database",
    "other_file_and_back",
    "power_cut",
    "power_cut_both",
    "quiet",
    "rename_skill",
    "restore",
    "restore_and_back",
    "server_restart",
];

const SERVERS_MAX: usize = 3;

impl World {
    fn any_server(&mut self) -> usize {
        self.random.below(self.servers.len())
    }

    fn any_feed(&mut self) -> FeedKey {
        self.random.choice(&self.configured)
    }

    fn set_up(&mut self, servers: &[usize], is_up: bool) {
        servers.iter().for_each(|server| self.servers[*server].is_up = is_up);
    }

    /// The configuration with `feed` at a place by chance.
    fn with_inserted(&mut self, feed: FeedKey) -> Vec<FeedKey> {
        let mut feeds = self.configured.clone();
        feeds.insert(self.random.below(feeds.len() + 1), feed);
        feeds
    }

    /// The configuration with another entry for `feed`.
    fn with_replaced(&self, feed: &FeedKey, other: &FeedKey) -> Vec<FeedKey> {
        self.configured.iter().map(|known| if known == feed { other } else { known }).cloned().collect()
    }

    fn without(&self, feed: &FeedKey) -> Vec<FeedKey> {
        self.configured.iter().filter(|known| *known != feed).cloned().collect()
    }

    /// Stops the bridge for some rounds, changes something and starts it.
    fn while_down(&mut self, rounds: &[usize], change: fn(&mut Self) -> Applied) -> Applied {
        self.stop_bridge();
        let rounds = self.random.choice(rounds);
        self.run(rounds);
        change(self);
        self.start_bridge();
        true
    }

    fn bridge_restart(&mut self) -> Applied {
        self.while_down(&[0, 1, 5, 20], |_| true)
    }

    fn name_down(&mut self) -> Applied {
        self.while_down(&[1, 5], Self::name_feed)
    }

    fn respell_down(&mut self) -> Applied {
        self.while_down(&[1, 5], Self::respell)
    }

    fn server_restart(&mut self) -> Applied {
        let server = self.any_server();
        self.servers[server].is_up = false;
        self.run(1);
        if self.random.happens(0.5) {
            let factor = self.random.choice(&[1.0, 10.0]);
            let (path, rate) = (self.servers[server].path.clone(), self.database(server).rate);
            self.traffic(&path, rate * factor);
        }
        self.run(1);
        self.servers[server].is_up = true;
        true
    }

    fn long_outage(&mut self) -> Applied {
        let server = self.any_server();
        self.servers[server].is_up = false;
        self.run(1);
        let path = self.servers[server].path.clone();
        let names: Vec<_> = self.files[&path].content.skills.iter().map(|(name, _)| name.clone()).collect();
        for name in names {
            for _ in 0..self.random.range(1, 10) {
                self.invoke(&path, Some(name.clone()));
            }
        }
        self.servers[server].is_up = true;
        true
    }

    /// The file of some server, and what it held at some time before.
    fn past_of_any(&mut self) -> Option<(String, Content)> {
        let server = self.any_server();
        let path = self.servers[server].path.clone();
        let past = &self.files[&path].past;
        if past.is_empty() {
            return None;
        }
        let content = past[self.random.below(past.len())].clone();
        Some((path, content))
    }

    fn power_cut(&mut self) -> Applied {
        let Some((path, content)) = self.past_of_any() else { return false };
        let servers = self.servers_of(&path);
        self.set_up(&servers, false);
        self.restore_file(&path, content, true);
        self.run(2);
        self.set_up(&servers, true);
        true
    }

    /// The power fails for server and bridge: both come back at once.
    fn power_cut_both(&mut self) -> Applied {
        let Some((path, content)) = self.past_of_any() else { return false };
        self.stop_bridge();
        self.restore_file(&path, content, true);
        let rate = self.files[&path].rate;
        if self.random.happens(0.5) {
            self.traffic(&path, rate);
        }
        self.start_bridge();
        true
    }

    fn delete_skill(&mut self) -> Applied {
        let server = self.any_server();
        let names = self.database(server).content.sorted_names();
        if names.is_empty() {
            return false;
        }
        let name = self.random.choice(&names);
        self.database_mut(server).content.remove(&name);
        true
    }

    fn rename_skill(&mut self) -> Applied {
        let server = self.any_server();
        let names = self.database(server).content.sorted_names();
        if names.is_empty() {
            return false;
        }
        let name = self.random.choice(&names);
        let renamed: Rc<str> = format!("renamed-{}", self.invocations.len()).into();
        let database = self.database_mut(server);
        let totals = database.content.remove(&name);
        *database.content.skill_mut(&renamed) = totals;
        database.names.iter_mut().filter(|known| **known == name).for_each(|known| *known = renamed.clone());
        true
    }

    /// The duration of one row is corrected.
    fn correct_row(&mut self) -> Applied {
        let server = self.any_server();
        let content = &self.database(server).content;
        let mut names: Vec<_> = content
            .skills
            .iter()
            .filter(|(_, totals)| totals.completed > 0 && totals.duration_seconds != 0.0)
            .map(|(name, _)| name.clone())
            .collect();
        if names.is_empty() {
            return false;
        }
        names.sort();
        let name = self.random.choice(&names);
        let change = self.random.uniform(-0.5, 0.5);
        let totals = self.database_mut(server).content.skill_mut(&name);
        totals.duration_seconds *= 1.0 + change / totals.completed as f64;
        true
    }

    fn backup(&mut self) -> Applied {
        let server = self.any_server();
        let path = self.servers[server].path.clone();
        self.backups.push((path.clone(), self.files[&path].content.clone()));
        let rounds = self.random.choice(&[2, 10]);
        self.run(rounds);
        true
    }

    fn restore(&mut self) -> Applied {
        let is_served = |world: &Self, path: &str| world.servers.iter().any(|server| server.path == path);
        let mut backups: Vec<_> = self.backups.iter().filter(|(path, _)| is_served(self, path)).cloned().collect();
        if backups.is_empty() {
            self.backup();
            backups.extend(self.backups.last().cloned());
        }
        let (path, content) = self.random.choice(&backups);
        let latest = self.files[&path].content.clone();
        let servers = self.servers_of(&path);
        let is_live = self.random.happens(0.3);
        if !is_live {
            self.set_up(&servers, false);
            self.run(1);
        }
        self.restore_file(&path, content, is_live);
        let rate = self.files[&path].rate;
        if self.random.happens(0.4) {
            self.traffic(&path, rate);
        }
        self.set_up(&servers, true);
        self.backups.push((path, latest));
        true
    }

    fn restore_and_back(&mut self) -> Applied {
        let server = self.any_server();
        let path = self.servers[server].path.clone();
        let early = self.files[&path].content.clone();
        let rounds = self.random.choice(&[3, 10]);
        self.run(rounds);
        let late = self.files[&path].content.clone();
        let servers = self.servers_of(&path);
        let late_traffic = self.random.choice(&[0.0, 1.0]);
        for (content, traffic) in [(early, 0.0), (late, late_traffic)] {
            self.set_up(&servers, false);
            self.run(1);
            self.restore_file(&path, content, false);
            let rate = self.files[&path].rate;
            self.traffic(&path, rate * traffic);
            self.set_up(&servers, true);
            let rounds = self.random.choice(&[1, 4]);
            self.run(rounds);
        }
        true
    }

    /// The file is deleted and a new database begins in its place.
    fn replace_database(&mut self) -> Applied {
        let server = self.any_server();
        let path = self.servers[server].path.clone();
        let servers = self.servers_of(&path);
        let is_live = self.random.happens(0.3);
        if !is_live {
            self.set_up(&servers, false);
            self.run(1);
        }
        let mut database = self.new_database();
        database.style = self.files[&path].style;
        if self.random.happens(0.8) {
            database.names = self.files[&path].names.clone();
        }
        self.put_file(&path, database);
        for _ in 0..self.random.choice(&[0, 1, 3, 10, 100, 1000]) {
            self.invoke(&path, None);
        }
        self.set_up(&servers, true);
        true
    }

    fn other_file_and_back(&mut self) -> Applied {
        let server = self.any_server();
        let path = self.servers[server].path.clone();
        if self.servers_of(&path).len() > 1 {
            return false;
        }
        self.servers[server].is_up = false;
        self.run(1);
        self.servers[server].path = self.new_file(None);
        self.servers[server].is_up = true;
        let rounds = self.random.choice(&[2, 6]);
        self.run(rounds);
        self.servers[server].is_up = false;
        self.run(1);
        self.servers[server].path = path;
        self.servers[server].is_up = true;
        true
    }

    /// A second server on a copy of the first one's database, with traffic of its own.
    fn copy_server(&mut self) -> Applied {
        let server = self.any_server();
        if self.servers.len() > SERVERS_MAX {
            return false;
        }
        let path = format!("f{}", self.next_id());
        let mut database = self.database(server).copy();
        database.rate = self.draw_rate();
        self.put_file(&path, database);
        let half = self.random.below(2) as u8;
        let copy = self.new_server(&path, half);
        let (id, url) = (copy.id, copy.urls[0].0.clone());
        self.servers.push(copy);
        let rounds = self.random.choice(&[0, 0, 3]);
        self.run(rounds);
        let name = if self.random.happens(0.5) { String::new() } else { format!("n{id}") };
        let mut feeds = self.configured.clone();
        feeds.push(FeedKey { name, ..FeedKey::unnamed(&url) });
        self.configure(feeds);
        self.run(8);
        true
    }

    /// A second server on a backup of the first one's database.
    fn backup_server(&mut self) -> Applied {
        let server = self.any_server();
        if self.servers.len() > SERVERS_MAX {
            return false;
        }
        let early = self.database(server).content.clone();
        let rounds = self.random.choice(&[3, 8]);
        self.run(rounds);
        let path = format!("f{}", self.next_id());
        let mut database = self.database(server).copy();
        database.set(early);
        self.put_file(&path, database);
        let half = self.random.below(2) as u8;
        self.serve_and_subscribe(&path, half);
        self.run(8);
        true
    }

    /// A new server, and its feed behind those that are configured.
    fn serve_and_subscribe(&mut self, path: &str, half: u8) {
        let server = self.new_server(path, half);
        let feed = FeedKey::unnamed(&server.urls[0].0);
        self.servers.push(server);
        let mut feeds = self.configured.clone();
        feeds.push(feed);
        self.configure(feeds);
    }

    fn second_process(&mut self) -> Applied {
        let server = self.any_server();
        if self.servers.len() > SERVERS_MAX {
            return false;
        }
        let (path, half) = (self.servers[server].path.clone(), 1 - self.servers[server].half);
        self.serve_and_subscribe(&path, half);
        true
    }

    /// A new address of `server`.
    fn new_url(&mut self, server: usize, prefix: &str) -> String {
        let url = format!("ws://{prefix}{}", self.next_id());
        self.servers[server].urls.push((url.clone(), true));
        url
    }

    fn second_address(&mut self) -> Applied {
        let server = self.any_server();
        if self.feeds_of(server).len() > 2 {
            return false;
        }
        let url = self.new_url(server, "a");
        let feeds = self.with_inserted(FeedKey::unnamed(&url));
        self.configure(feeds);
        true
    }

    /// Servers that are received under more than one address.
    fn with_several_feeds(&self) -> Vec<usize> {
        (0..self.servers.len()).filter(|server| self.feeds_of(*server).len() > 1).collect()
    }

    fn drop_address(&mut self) -> Applied {
        let servers = self.with_several_feeds();
        if servers.is_empty() {
            return false;
        }
        let server = self.random.choice(&servers);
        let feed = self.random.choice(&self.feeds_of(server));
        self.configure(self.without(&feed));
        true
    }

    fn address_dies(&mut self) -> Applied {
        let servers = self.with_several_feeds();
        if servers.is_empty() {
            return false;
        }
        let server = self.random.choice(&servers);
        let url = self.random.choice(&self.feeds_of(server)).url;
        let id = self.servers[server].id;
        self.servers[server].set_works(&url, false);
        let rounds = self.random.choice(&[2, 8]);
        self.run(rounds);
        let server = self.servers.iter_mut().find(|server| server.id == id).expect("it is still there");
        server.set_works(&url, true);
        true
    }

    fn name_feed(&mut self) -> Applied {
        let feed = self.any_feed();
        let id = self.next_id();
        let name = if self.random.happens(0.7) { format!("n{id}") } else { String::new() };
        let named = FeedKey { name, ..feed.clone() };
        self.configure(self.with_replaced(&feed, &named));
        true
    }

    /// The same server by another spelling of its address.
    fn respell(&mut self) -> Applied {
        let feed = self.any_feed();
        let Some(server) = self.server_at(&feed.url) else { return false };
        let url = self.new_url(server, "s");
        let respelled = FeedKey { url, ..feed.clone() };
        self.configure(self.with_replaced(&feed, &respelled));
        true
    }

    fn filter(&mut self) -> Applied {
        let feed = self.any_feed();
        let Some(server) = self.server_at(&feed.url) else { return false };
        let names = self.database(server).content.sorted_names();
        if names.is_empty() {
            return false;
        }
        let skill = feed.skill.is_none().then(|| self.random.choice(&names));
        let filtered = FeedKey { skill, ..feed.clone() };
        if self.configured.contains(&filtered) {
            return false;
        }
        self.configure(self.with_replaced(&feed, &filtered));
        true
    }

    fn filtered_beside(&mut self) -> Applied {
        let server = self.any_server();
        let names = self.database(server).content.sorted_names();
        if names.is_empty() || self.feeds_of(server).len() > 2 {
            return false;
        }
        let url = self.new_url(server, "q");
        let mut feeds = self.configured.clone();
        let at = self.random.below(feeds.len() + 1);
        feeds.insert(at, FeedKey { skill: Some(self.random.choice(&names)), ..FeedKey::unnamed(&url) });
        self.configure(feeds);
        true
    }

    fn shuffle(&mut self) -> Applied {
        let mut feeds = self.configured.clone();
        self.random.shuffle(&mut feeds);
        self.configure(feeds);
        true
    }

    fn remove_and_add(&mut self) -> Applied {
        let feed = self.any_feed();
        self.configure(self.without(&feed));
        let rounds = self.random.choice(&[1, 6]);
        self.run(rounds);
        let feeds = self.with_inserted(feed);
        self.configure(feeds);
        true
    }

    fn server_joins(&mut self) -> Applied {
        if self.servers.len() > SERVERS_MAX {
            return false;
        }
        let path = self.new_file(None);
        let half = self.random.below(2) as u8;
        let server = self.new_server(&path, half);
        let feed = FeedKey::unnamed(&server.urls[0].0);
        self.servers.push(server);
        let feeds = self.with_inserted(feed);
        self.configure(feeds);
        true
    }

    /// A small server that two addresses, or two processes, serve from its beginning.
    fn server_joins_twice(&mut self) -> Applied {
        if self.servers.len() > SERVERS_MAX - 1 {
            return false;
        }
        let size = self.random.choice(&[0, 0, 1, 3]);
        let path = self.new_file(Some(size));
        let mut server = self.new_server(&path, 0);
        let first = server.urls[0].0.clone();
        let second = if self.random.happens(0.5) {
            let second = format!("{first}b");
            server.urls.push((second.clone(), true));
            self.servers.push(server);
            second
        } else {
            self.servers.push(server);
            let other = self.new_server(&path, 1);
            let second = other.urls[0].0.clone();
            self.servers.push(other);
            second
        };
        let mut feeds = self.configured.clone();
        feeds.extend([FeedKey::unnamed(&first), FeedKey::unnamed(&second)]);
        self.configure(feeds);
        true
    }

    fn server_leaves(&mut self) -> Applied {
        if self.servers.len() < 2 {
            return false;
        }
        let server = self.any_server();
        let left = self.servers.remove(server);
        let feeds: Vec<_> = self.configured.iter().filter(|feed| !left.has_url(&feed.url)).cloned().collect();
        if feeds.is_empty() {
            self.servers.push(left);
        } else {
            self.configure(feeds);
        }
        true
    }

    fn burst(&mut self) -> Applied {
        let server = self.any_server();
        let path = self.servers[server].path.clone();
        let invocations = self.random.choice(&[5.0, 50.0, 500.0]);
        self.traffic(&path, invocations);
        true
    }

    fn quiet(&mut self) -> Applied {
        self.run(5);
        true
    }

    /// The servers' clocks are set.
    fn clock(&mut self) -> Applied {
        for server in 0..self.servers.len() {
            self.servers[server].set_micros(self.random.below(999_999) as i64);
        }
        true
    }
}

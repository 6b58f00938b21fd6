"""The Lua scripts. Redis runs each atomically, on the keys of one owner and by the server's clock.

- ``<namespace>:checkpoints:{<owner>}:thread:<thread>``, a hash: ``latest`` and ``oldest`` version, ``created``,
  ``expires``, ``saves``, and a field for each version: when it was saved and when it expires, a line break, JSON.
  Versions are consecutive, so no list of them is needed. ``saves`` has the tokens of the last 32 saves with their
  versions, by which a retry recognises a save whose reply was lost, also after later saves of others.
- ``<namespace>:checkpoints:{<owner>}:threads``, a sorted set: the threads by the time of their last save, all distinct.
- ``<namespace>:checkpoints:{<owner>}:expiries``, a sorted set: the threads that expire, by the time when they do.

The braces are part of the keys: Redis computes the slot from the text between them.

Redis removes the hash of an expired thread; the next save, deletion or list of the owner removes it from both sets. If
all threads of an owner expire, the sets expire with the last one, so nothing stays of an owner who never returns.

Times are microseconds since 1970, which a Lua number holds exactly until the year 2255.
"""

from __future__ import annotations

from hashlib import sha1
from typing import Final

# The beginning of every script. `now` is the server's time, the same for all writers; scripts compare expiries with it
# themselves, because Redis expires keys by the millisecond. `digits` writes numbers as 1700000000000000, not as Lua's
# 1.7e+15. `tidy` removes expired threads from the sets, 100 a call, because Redis runs nothing else during a script.
# Then, if all threads expire, it lets the sets expire with the last one; a millisecond later, so that they go last.
_PRELUDE: Final = """
local function digits(number) return string.format('%.0f', number) end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local function lives(expires) return not expires or expires == '' or now < tonumber(expires) end
local function tidy(threads, expiries)
  for _, gone in ipairs(redis.call('ZRANGEBYSCORE', expiries, '-inf', digits(now), 'LIMIT', 0, 100)) do
    redis.call('ZREM', expiries, gone)
    redis.call('ZREM', threads, gone)
  end
  local last = redis.call('ZRANGE', expiries, -1, -1, 'WITHSCORES')[2]
  for _, key in ipairs({threads, expiries}) do
    if redis.call('ZCARD', threads) > redis.call('ZCARD', expiries) then
      redis.call('PERSIST', key)
    elseif last then
      redis.call('PEXPIREAT', key, digits(math.ceil(last / 1000) + 1))
    end
  end
end
"""


class Script:
    """A script, and the hash by which a server that has run it once can run it again."""

    def __init__(self, body: str) -> None:
        self.text = _PRELUDE + body
        self.sha = sha1(self.text.encode(), usedforsecurity=False).hexdigest()


# KEYS: the thread, the threads, the expiries. ARGV: the thread's id, the state's JSON, the save's token, the expected
# version and the lifetime in microseconds ('' for none), the number of versions to keep (0 for all).
# Returns 1, the version and its times; or 0 and the latest version, if that is not the expected one.
SAVE: Final = Script("""
local thread, threads, expiries = KEYS[1], KEYS[2], KEYS[3]
local id, json, token, expected, lifetime, keep = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
local held = redis.call('HMGET', thread, 'latest', 'oldest', 'created', 'expires', 'saves')
if not lives(held[4]) then
  redis.call('DEL', thread)
  held = {}
end
local latest, saves = held[1] or '0', held[5] or ''
-- First of all: after a lost reply the expected version has passed, by this very save.
local done = string.match(saves, token .. ' (%d+)')
if done then
  local state = redis.call('HGET', thread, done)
  local times = state and string.match(state, '^[^\\n]*') or digits(now) .. ' ' -- removed, if few are kept
  return {1, done, times}
end
if expected ~= '' and expected ~= latest then return {0, latest} end

-- After the last save of the owner, even if the clock went back: lists are ordered by it, and cursors hold it.
local top = redis.call('ZRANGE', threads, -1, -1, 'WITHSCORES')[2]
local updated = now
if top and tonumber(top) >= now then updated = top + 1 end
-- The first version is a time, so that a thread created again after a deletion repeats no version.
local version = updated
if held[1] then version = held[1] + 1 end
local expires = ''
if lifetime ~= '' then expires = digits(now + lifetime) end
local times = digits(now) .. ' ' .. expires
local oldest = tonumber(held[2] or version)
local first = oldest
-- 1,000 a save at most, if `keep` was lowered: Redis runs nothing else during a script.
if keep > 0 then first = math.min(math.max(oldest, version - keep + 1), oldest + 1000) end

-- 1,600 characters are 32 saves: 32 of the token, 16 of the version, two separators each.
redis.call('HSET', thread, 'latest', digits(version), 'oldest', digits(first), 'created', held[3] or digits(updated),
  'expires', expires, 'saves', string.sub(token .. ' ' .. digits(version) .. ';' .. saves, 1, 1600),
  digits(version), times .. '\\n' .. json)
for gone = oldest, first - 1 do redis.call('HDEL', thread, digits(gone)) end
redis.call('ZADD', threads, digits(updated), id)
if expires == '' then
  redis.call('PERSIST', thread)
  redis.call('ZREM', expiries, id)
else
  redis.call('PEXPIREAT', thread, digits(math.ceil(expires / 1000)))
  redis.call('ZADD', expiries, expires, id)
end
tidy(threads, expiries)
return {1, digits(version), times}
""")

# KEYS: the thread. ARGV: a version, or '' for the latest. Returns the version and its state, or nothing.
LOAD: Final = Script("""
local held = redis.call('HMGET', KEYS[1], 'latest', 'expires')
if not held[1] or not lives(held[2]) then return {} end
local version = ARGV[1]
if version == '' then version = held[1] end
local state = redis.call('HGET', KEYS[1], version)
if not state or not lives(string.match(state, '^%d+ (%d*)')) then return {} end
return {version, state}
""")

# KEYS: the thread. ARGV: the version before which the page begins ('' for the latest), the number of states.
# Returns versions and states, alternating, the latest first.
HISTORY: Final = Script("""
local held = redis.call('HMGET', KEYS[1], 'latest', 'oldest', 'expires')
local found = {}
if not held[1] or not lives(held[3]) then return found end
local version, oldest, count = tonumber(held[1]), tonumber(held[2]), ARGV[2] * 2
if ARGV[1] ~= '' then version = math.min(version, ARGV[1] - 1) end
while version >= oldest and #found < count do
  local state = redis.call('HGET', KEYS[1], digits(version))
  if state and lives(string.match(state, '^%d+ (%d*)')) then
    found[#found + 1] = digits(version)
    found[#found + 1] = state
  end
  version = version - 1
end
return found
""")

# KEYS: the thread, the threads, the expiries. ARGV: the thread's id. Returns whether the thread existed.
DELETE: Final = Script("""
local held = redis.call('HMGET', KEYS[1], 'latest', 'expires')
redis.call('UNLINK', KEYS[1]) -- frees a large history in the background, unlike DEL
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
tidy(KEYS[2], KEYS[3])
return held[1] and lives(held[2]) and 1 or 0
""")

# KEYS: the threads, the expiries. ARGV: the highest time of a last save, the number of threads.
# Returns ids and times of last saves, alternating, the latest first.
LIST: Final = Script("""
tidy(KEYS[1], KEYS[2])
return redis.call('ZREVRANGEBYSCORE', KEYS[1], ARGV[1], '-inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])
""")

# KEYS: the threads, the expiries, each thread of a page. ARGV: the ids of these threads.
# Returns when each was created; '' if it was evicted, or has expired since the list was read.
LOOK: Final = Script("""
local found = {}
for index, id in ipairs(ARGV) do
  local held = redis.call('HMGET', KEYS[index + 2], 'created', 'expires')
  found[index] = lives(held[2]) and held[1] or ''
  if not held[1] then -- evicted: no expiry would ever remove it from the sets
    redis.call('ZREM', KEYS[1], id)
    redis.call('ZREM', KEYS[2], id)
  end
end
return found
""")

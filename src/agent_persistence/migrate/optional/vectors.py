"""Optional table of items' vectors, for searches by meaning. It needs the extension pgvector."""

from __future__ import annotations

from typing import Final

from agent_persistence.migrate.optional.definition import OptionalObject
from agent_persistence.migrate.optional.row_level_security import ITEM_VECTORS, protect

# Without toast_tuple_target a row of more than 2 KB leaves its page, and each vector is another read: a search among
# 2,000 vectors of 1,536 numbers takes twice as long.
_TABLE: Final = f"""
CREATE TABLE IF NOT EXISTS {ITEM_VECTORS} (
  user_id {{owner}} NOT NULL,
  namespace text COLLATE "C" NOT NULL,
  key text COLLATE "C" NOT NULL,
  place integer NOT NULL,
  embedding {{vector}} NOT NULL,
  CONSTRAINT {ITEM_VECTORS}_pkey PRIMARY KEY (user_id, namespace, key, place),
  CONSTRAINT {ITEM_VECTORS}_fkey FOREIGN KEY (user_id, namespace, key) REFERENCES items
    ON DELETE CASCADE ON UPDATE CASCADE
) WITH (toast_tuple_target = 8160)
"""
# A trigger, for the vectors of an old value mislead whichever program puts the new one: this package without vectors,
# an older version of it, or psql.
_FORGET: Final = """
BEGIN
  DELETE FROM opt_item_vectors WHERE user_id = NEW.user_id AND namespace = NEW.namespace AND key = NEW.key;
  RETURN NULL;
END
"""
# PostgreSQL puts the bodies of these into the query. They name the extension's schema, which a query cannot know.
_MADE: Final = """
CREATE OR REPLACE FUNCTION opt_item_vector(numbers real[]) RETURNS {vector} LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS 'SELECT CAST(numbers AS {vector})'
"""
# The distance from a vector of zeros is no number: as far as one that has nothing in common.
_DISTANCE: Final = """
CREATE OR REPLACE FUNCTION opt_item_distance(one {vector}, other {vector}) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS 'SELECT coalesce(nullif(one OPERATOR({extension}.<=>) other, ''NaN''), 1)'
"""

VECTORS: Final = OptionalObject(
    name="vectors",
    summary="a table of items' vectors, for items.search(near=...) and LangGraph's store; needs pgvector and --dims",
    creates=ITEM_VECTORS,
    add=(
        _TABLE,
        # SECURITY DEFINER: whoever may change an item needs no right on its vectors.
        "CREATE OR REPLACE FUNCTION opt_forget_vectors() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER "
        f"SET search_path = {{schema}}, pg_temp AS $${_FORGET}$$",
        "REVOKE ALL ON FUNCTION opt_forget_vectors() FROM PUBLIC",
        "CREATE OR REPLACE TRIGGER opt_forget_vectors AFTER UPDATE OF value ON items FOR EACH ROW "
        "EXECUTE FUNCTION opt_forget_vectors()",
        _MADE,
        _DISTANCE,
        protect(ITEM_VECTORS, where="EXISTS (SELECT FROM pg_policy WHERE polrelid = to_regclass('items'))"),
    ),
    remove=(
        "DROP FUNCTION IF EXISTS opt_forget_vectors() CASCADE",
        "DROP FUNCTION IF EXISTS opt_item_distance",
        "DROP FUNCTION IF EXISTS opt_item_vector",
        f"DROP TABLE IF EXISTS {ITEM_VECTORS}",
    ),
    extension="vector",
    package="pgvector (in many distributions, a package such as postgresql-18-pgvector)",
    has_dims=True,
)

"""Writes myisam_tables.zip anew: small tables of a real MariaDB server, and what the server says is in them.

    python tests/test_plugins/make_myisam_tables.py        needs mariadbd, mariadb-install-db and myisampack on the PATH
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import time
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SQL = r"""
create database fx character set utf8mb4; use fx;
create table kinds (
  id int unsigned not null auto_increment primary key,
  name varchar(60) character set utf8mb4, latin varchar(300) character set latin1, code char(12) character set ascii,
  note text character set utf8mb3, cyr varchar(40) character set cp1251, jp text character set sjis, u16 varchar(20) character set utf16,
  colour enum('red','green','blå'), tags set('hot','cold','wet'), price decimal(10,2), big decimal(30,10), small tinyint,
  u tinyint unsigned, s smallint, m mediumint, b bigint, z int(6) zerofill, f float, d double, fx double(8,3), dt date, tm time,
  dtm datetime, ts timestamp null, dt6 datetime(6), tm3 time(3), y year, bits bit(11), raw varbinary(20), body mediumblob, c3 char(3)
) engine=myisam;
insert into kinds values
 (1,'Ångström 😀','naïve café','ABC-1','first note','привет','日本語','Ωmega','blå','hot,wet',1234.50,-12345678901234567890.0123456789,-5,250,
  -3000,-800000,-9000000000,42,1.5,2.25,3.1416,'2024-02-29','-12:34:56','2023-01-02 03:04:05','2020-01-01 00:00:00',
  '2023-01-02 03:04:05.123456','01:02:03.250',1999,b'10110011101',x'00ff10',x'0001','xyz'),
 (2,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,
  null,null,null,null),
 (3,'','','','','','','','red','',0,0,0,0,0,0,0,0,0,0,0,'0000-00-00','00:00:00','0000-00-00 00:00:00',null,null,null,0,0,'','',''),
 (4,repeat('x',60),repeat('y',299),'A B',repeat('long ',80),'','','','green','cold',-0.01,9.5,127,0,32767,8388607,9223372036854775807,1,
  -0.000123,1e300,-1.5,'1000-01-01','838:59:59','9999-12-31 23:59:59','2038-01-19 03:14:07','2000-01-01 00:00:00.5','-00:00:01.500',2155,
  b'1','abc',null,'a');
create table fixed (id int not null, code char(20) character set latin1 not null, n int, kind enum('a','b') not null,
  price decimal(6,2), flag bit(3)) engine=myisam row_format=fixed;
insert into fixed values (1,'alpha',null,'a',1.25,b'101'),(2,'beta',7,'b',-99.99,null),(3,'gone',1,'a',0,b'0'),(4,'delta',-4,'b',null,b'1');
delete from fixed where id=3;
create table tiny (a tinyint not null) engine=myisam;
insert into tiny values (1),(2),(3); delete from tiny where a=2;
create table summed (a int, t char(10)) engine=myisam checksum=1 row_format=fixed; insert into summed values (1,'one'),(2,'two');
create table summed_text (a int, t text) engine=myisam checksum=1; insert into summed_text values (1,'one'),(2,'two');
create table moved (id int primary key, t text, v varchar(500)) engine=myisam;
insert into moved select seq, concat('short ',seq), '' from seq_1_to_40;
delete from moved where id%7=0;
update moved set t=concat(repeat(concat('grown ',id,' '),30),'end'), v=repeat('w',300+id) where id%3=0;
delete from moved where id%5=0;
insert into moved select 100+seq, repeat(concat('late ',seq,' '),40), 'z' from seq_1_to_10;
update moved set t='shrunk' where id=3;
create table chars (id int not null, a char(30) character set utf8mb4, b varchar(5), c char(200) character set latin1, t text,
  d decimal(20,4), e decimal(3,1), ts timestamp null, dd date, en enum('x','y')) engine=myisam;
insert into chars values (1,'été','b','spaces   inside','t',1.5,9.9,null,'2020-02-02','y'),(2,'','','','',0,0,'2021-01-01 00:00:00',null,'x'),
 (3,null,null,null,null,null,null,null,null,null),(4,'short','five5',repeat('q',200),'more',-123456789.5,-9.9,'2022-02-02 02:02:02','1999-12-31',null);
create table packed (id int, t varchar(100)) engine=myisam; insert into packed select seq, concat('packed row ',seq mod 5) from seq_1_to_200;
create table refs (id int unsigned not null primary key, trash_state tinyint not null, text_styles longblob not null,
  reference_type int unsigned not null, author text not null, year text not null, title text not null, pages text not null,
  secondary_title text not null, volume text not null, number text not null, keywords text not null, abstract mediumtext not null,
  notes mediumtext not null, isbn text not null, url text not null, custom_1 text not null, electronic_resource_number text not null,
  rating text not null, record_last_updated int unsigned not null, file_attachments text not null) engine=myisam;
insert into refs values
 (1,0,x'0102',0,'Müller, Ada\rLovelace, Grace','2012','Tides of the <em>northern</em> harbour','3-14','Journal of Coasts','7','2',
  'tides\rharbour','We measured the water &amp; the wind.<br>Both rose.','Read twice.','1234-5678','https://example.org/tides','','10.1/xyz','',1400000000,
  'internal-pdf://0001/tides.pdf'),
 (2,0,'',1,'Ünal, Cem','1999','Lamps and their keepers','','','','','','','Ch. 3 covers H<sub>2</sub> lamps.','','','borrowed','','',1400000001,''),
 (3,1,'',0,'Nobody','2000','A reference thrown away','','','','','','Deleted words.','','','','','','',1400000002,'');
create table inno (id int primary key, question text, answer text, key (question(20))) engine=innodb;
insert into inno values (1,'Where does the ferry land?','At the stone quay beside the mill.'),(2,'Who wrote the log?','The second mate, Ünal.'),
 (3,'A row deleted later?','It is gone from the table.'),(4,'How long is the long one?',repeat('It goes on and on. ',500));
delete from inno where id=3;
flush tables;
"""


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="tables-"))
    data, socket = folder / "data", folder / "s"
    subprocess.run(["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal"], check=True, capture_output=True)
    server = subprocess.Popen(["mariadbd", "--no-defaults", "--user=root", f"--datadir={data}", f"--socket={socket}", "--skip-networking"], stderr=subprocess.DEVNULL)
    try:
        while not socket.exists():
            time.sleep(0.2)
        run = ["mariadb", "-S", str(socket), "-u", "root", "--default-character-set=utf8mb4", "-N", "-B"]
        ask(run, SQL)
        expected = {name: rows(run, name) for name in ask(run, "show tables from fx").split()}
        ask(run, f"use fx; flush tables inno for export;\n\\! cp {data}/fx/inno.* {folder}\nunlock tables;")
        collect(data / "fx", folder, expected)
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder)


def ask(run: list[str], sql: str) -> str:
    done = subprocess.run(run, input=f"set time_zone='+00:00'; set sql_mode='';\n{sql}".encode(), capture_output=True, check=True)
    return done.stdout.decode("utf-8", "replace")


def rows(run: list[str], table: str) -> list[dict[str, str]]:
    """What the server says: column -> text, without NULLs and empty values; bits as numbers, binary columns left out."""
    listed = [line.split("\t")[:2] for line in ask(run, f"describe fx.{table}").split("\n")[:-1]]
    wanted = [(name, kind) for name, kind in listed if not kind.endswith(("blob", "binary(20)"))]
    columns = ", ".join(f"`{name}`+0" if kind.startswith("bit") else f"`{name}`" for name, kind in wanted)
    found = []
    for line in ask(run, f"select {columns} from fx.{table}").split("\n")[:-1]:
        values = [re.sub(r"\\(.)", lambda match: {"n": "\n", "t": "\t", "0": "\0"}.get(match[1], match[1]), one) for one in line.split("\t")]
        found.append({name: value for (name, _), value in zip(wanted, values, strict=True) if value not in ("", "NULL")})
    return found


def collect(tables: Path, folder: Path, expected: dict[str, list[dict[str, str]]]) -> None:
    for path in tables.glob("packed.*"):
        shutil.copy(path, folder)
    subprocess.run(["myisampack", "-s", str(folder / "packed.MYI")], check=True)
    packed = [path for path in folder.iterdir() if path.stem in {"packed", "inno"} and path.suffix in {".frm", ".MYD", ".MYI", ".ibd"}]
    plain = [path for path in tables.iterdir() if path.suffix in {".frm", ".MYD", ".MYI"} and path.stem not in {"packed", "inno"}]
    with zipfile.ZipFile(HERE / "myisam_tables.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in sorted(packed + plain, key=lambda path: path.name):
            archive.writestr(zipfile.ZipInfo(path.name), path.read_bytes(), zipfile.ZIP_DEFLATED)
        archive.writestr(zipfile.ZipInfo("expected.json"), json.dumps(expected, ensure_ascii=False, indent=1), zipfile.ZIP_DEFLATED)


if __name__ == "__main__":
    main()

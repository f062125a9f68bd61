import gc, collections, sys
sys.path.insert(0,'/work/main')
import tests.simulated.test_ninety_days as t
orig=t.rows
snaps=[]
def rows(w):
    r=orig(w); gc.collect()
    snaps.append(collections.Counter(f"{type(o).__module__}.{type(o).__qualname__}" for o in gc.get_objects()))
    if len(snaps)==12:
        d=snaps[-1]-snaps[5]
        print('\n',d.most_common(25))
        import types
        # who refers to Session objects
        for cls in ('Session','Executor','Printer','MqttLink','MoonrakerLink','Disk','Process'):
            objs=[o for o in gc.get_objects() if type(o).__name__==cls]
            print(cls,len(objs))
            if len(objs)>2:
                o=objs[1]
                for r in gc.get_referrers(o)[:6]:
                    print('   <-',type(r),str(r)[:150])
    return r
t.rows=rows
from tests.simulated.test_ninety_days import *

// Begins when every part is there.

(() => {
  "use strict";
  WL.begin();
})();
